/* Counts the seam's calls and makes chosen ones fail: see double.h for the environment. */
#include "tests/gpu_double/double.h"
#include "tests/gpu_double/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>

struct Rule {
    Injection kind;
    int rank; /* -1: any */
    std::string function;
    int occurrence;
};

static bool rules_read;
static std::vector<Rule> rules;
static std::map<std::string, int> counts;
static int fired;
static std::string late;
static bool hang;

int inject_rank() {
    static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (const char *name : ranks)
        if (const char *rank = getenv(name)) return atoi(rank);
    return 0;
}

static void refuse_rule(const char *variable, const std::string &text) {
    fprintf(stderr, "gpu_double: %s: cannot read \"%s\"\n", variable, text.c_str());
    abort();
}

static void read_rule(const char *variable, Injection kind, const std::string &text) {
    Rule rule = {kind, -1, text, 0};
    if (rule.function.compare(0, 5, "rank:") == 0) {
        size_t comma = rule.function.find(',');
        if (comma == std::string::npos) refuse_rule(variable, text);
        rule.rank = atoi(rule.function.c_str() + 5);
        rule.function.erase(0, comma + 1);
    }
    size_t colon = rule.function.find(':');
    if (colon == std::string::npos) refuse_rule(variable, text);
    rule.occurrence = atoi(rule.function.c_str() + colon + 1);
    rule.function.resize(colon);
    if (rule.occurrence < 1) refuse_rule(variable, text);
    rules.push_back(rule);
}

static void read_variable(const char *variable, Injection kind) {
    const char *value = getenv(variable);
    if (value == nullptr) return;
    std::string text = value;
    for (size_t at = 0; at < text.size();) {
        size_t end = text.find(';', at);
        if (end == std::string::npos) end = text.size();
        if (end > at) read_rule(variable, kind, text.substr(at, end - at));
        at = end + 1;
    }
}

static void read_rules() {
    if (rules_read) return;
    rules_read = true;
    read_variable("GPU_DOUBLE_FAIL", Injection::FAIL);
    read_variable("GPU_DOUBLE_FAIL_LATE", Injection::FAIL_LATE);
    read_variable("GPU_DOUBLE_HANG", Injection::HANG);
}

Injection inject_at(const char *function) {
    static const char *const verbs[] = {"", "failure", "late failure", "hang"};
    read_rules();
    hang = false;
    int count = ++counts[function];
    for (const Rule &rule : rules) {
        if (rule.function != function || rule.occurrence != count) continue;
        if (rule.rank >= 0 && rule.rank != inject_rank()) continue;
        fired++;
        fprintf(stderr, "gpu_double: injected %s of %s, call %d, rank %d\n",
                verbs[(int)rule.kind], function, count, inject_rank());
        hang = rule.kind == Injection::HANG;
        return rule.kind;
    }
    return Injection::NONE;
}

void inject_set_late(const std::string &why) {
    late = why;
}

bool inject_take_late(std::string *why) {
    if (late.empty()) return false;
    *why = late;
    late.clear();
    return true;
}

bool inject_take_hang() {
    bool taken = hang;
    hang = false;
    return taken;
}

void inject_write_counts() {
    const char *file = getenv("GPU_DOUBLE_COUNT");
    if (file == nullptr) return;
    std::string name = file;
    if (inject_rank() > 0) name += "." + std::to_string(inject_rank());
    FILE *out = fopen(name.c_str(), "w");
    if (out == nullptr) {
        perror(name.c_str());
        abort();
    }
    for (const auto &[function, count] : counts)
        fprintf(out, "%s %d\n", function.c_str(), count);
    fclose(out);
}

void double_reset(void) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    rules.clear();
    counts.clear();
    late.clear();
    hang = false;
    fired = 0;
    rules_read = false;
    if (!engine.open) engine.failure.clear(); /* of an opening that was made to fail */
}

int double_calls(const char *function) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    return counts[function];
}

int double_fired(void) {
    return fired;
}

/* `rekindle checkpoints`, as a shell sees it: what it prints and how it exits. */
#include "tests/support/test.h"

#include "tests/support/run_directory.h"

#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <sys/wait.h>

static RunDirectory run;
static char program[PATH_MAX]; /* beside the directory of the tests */
static char output[16384];

static int make_run(void **state) {
    (void)state;
    char here[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
    if (length < 0) return 1;
    here[length] = '\0';
    snprintf(program, sizeof program, "%.3000s/../rekindle", dirname(here));
    run = run_directory_create();
    write_stepped(&run, 1, 100);
    write_stepped(&run, 1, 200);
    return run.directory < 0;
}

static int remove_run(void **state) {
    (void)state;
    run_directory_remove(&run);
    return 0;
}

/* Runs `rekindle checkpoints` with RUN in the arguments replaced; its exit code, its text in output. */
static int command(const char *format) {
    char line[PATH_MAX + 1024];
    int length = snprintf(line, sizeof line, "%s checkpoints ", program);
    for (const char *at = format; *at != '\0'; at++) {
        if (strncmp(at, "RUN", 3) == 0) {
            length += snprintf(line + length, sizeof line - (size_t)length, "%s", run.path);
            at += 2;
        } else {
            line[length++] = *at;
        }
    }
    snprintf(line + length, sizeof line - (size_t)length, " 2>&1");
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    output[fread(output, 1, sizeof output - 1, pipe)] = '\0';
    return WEXITSTATUS(pclose(pipe));
}

static void assert_says(const char *text) {
    if (strstr(output, text) == NULL) fail_msg("\"%s\" not in: %s", text, output);
}

static json_t *parsed(void) {
    json_error_t error;
    json_t *json = json_loads(output, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL) fail_msg("%s: %s", error.text, output);
    return json;
}

#define FILE_100 "RUN/checkpoints/g0001-step-000000000100.h5"
#define FILE_200 "RUN/checkpoints/g0001-step-000000000200.h5"

static void ls_lists_newest_first_with_verdicts(void **state) {
    (void)state;
    flip_bit(&run, 1, 200, 10);
    assert_int_equal(command("ls RUN"), 0);
    const char *newer = strstr(output, "000200.h5"), *older = strstr(output, "000100.h5");
    assert_true(newer != NULL && older != NULL && newer < older);
    assert_says("damaged");
    assert_says("the user block's checksum is wrong");
    assert_int_equal(command("ls --json RUN/checkpoints"),
                     0); /* the inner directory serves, too */
    json_t *all = parsed();
    assert_int_equal(json_array_size(all), 2);
    json_t *second = json_array_get(all, 1);
    assert_int_equal(json_integer_value(json_object_get(second, "step")), 100);
    assert_string_equal(json_string_value(json_object_get(second, "verdict")), "valid");
    json_decref(all);
    assert_int_equal(command("ls /nonexistent"), 2);
    assert_says("cannot find /nonexistent");
}

static void show_prints_the_newest_valid_ones_state_digest(void **state) {
    (void)state;
    char digest[DIGEST_TEXT];
    State *expected = stepped_state(200);
    digest_print(state_digest(expected), digest);
    state_destroy(expected);
    assert_int_equal(command("show RUN --json"), 0);
    json_t *shown = parsed();
    assert_string_equal(json_string_value(json_object_get(shown, "state_digest")), digest);
    json_decref(shown);
    assert_int_equal(command("show " FILE_200), 0);
    assert_says(digest);
    flip_bit(&run, 1, 200, 10);
    assert_int_equal(command("show " FILE_200), 3);
    assert_int_equal(command("show RUN"), 0);
    assert_says("step          100");
    flip_bit(&run, 1, 100, 10);
    assert_int_equal(command("show RUN"), 3);
}

static void verify_reads_everything_and_exits_3_for_damage(void **state) {
    (void)state;
    assert_int_equal(command("verify RUN"), 0);
    assert_says("2 checked, 0 bad");
    flip_bit(&run, 1, 200, -50); /* a tensor's byte: ls cannot see it */
    assert_int_equal(command("ls RUN"), 0);
    assert_null(strstr(output, "damaged"));
    assert_int_equal(command("verify RUN"), 3);
    assert_says("BAD  g0001-step-000000000200.h5: segment 0");
    assert_int_equal(command("verify " FILE_100), 0);
    assert_int_equal(command("verify --deep RUN"), 3); /* the same */
    assert_says("BAD  g0001-step-000000000200.h5: segment 0");
    assert_int_equal(command("ls --deep RUN"), 2);
    assert_int_equal(command("verify --json " FILE_100 " " FILE_200), 3);
    json_t *all = parsed();
    assert_true(json_is_true(json_object_get(json_array_get(all, 0), "ok")));
    assert_true(json_is_false(json_object_get(json_array_get(all, 1), "ok")));
    json_decref(all);
}

static void diff_names_the_first_difference(void **state) {
    (void)state;
    assert_int_equal(command("diff " FILE_200 " RUN"), 0); /* the newest is that file */
    assert_int_equal(command("diff " FILE_100 " " FILE_200), 1);
    assert_says("model/fc.bias    equal");
    assert_says("model/fc.weight  different: 2000 of 2000 elements, first [0] 100 and 200");
    assert_int_equal(command("diff --json " FILE_100 " " FILE_200), 1);
    json_t *told = parsed();
    json_t *weight = json_array_get(json_object_get(told, "entries"), 1);
    assert_string_equal(json_string_value(json_object_get(weight, "relation")),
                        "different");
    assert_int_equal(json_integer_value(json_object_get(weight, "first_index")), 0);
    assert_float_equal(json_number_value(json_object_get(weight, "max_abs_difference")),
                       100, 1e-4);
    json_decref(told);
    flip_bit(&run, 1, 200, -50);
    assert_int_equal(command("diff " FILE_100 " " FILE_200),
                     3); /* damage is not a difference */
}

static void wrong_use_exits_2_and_help_0(void **state) {
    (void)state;
    assert_int_equal(command(""), 2);
    assert_int_equal(command("list RUN"), 2);
    assert_says("no part \"list\"");
    assert_int_equal(command("ls RUN --jsn"), 2);
    assert_says("--jsn");
    assert_int_equal(command("diff " FILE_100), 2);
    assert_int_equal(command("ls RUN RUN"), 2);
    assert_int_equal(command("--help"), 0);
    assert_says("usage: rekindle checkpoints ls");
    assert_int_equal(command("diff --help"), 0);
    assert_says("usage: rekindle checkpoints diff A B");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(ls_lists_newest_first_with_verdicts),
        TEST(show_prints_the_newest_valid_ones_state_digest),
        TEST(verify_reads_everything_and_exits_3_for_damage),
        TEST(diff_names_the_first_difference),
        TEST(wrong_use_exits_2_and_help_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The list of launches: plans are noted, stand for earlier ones of the same kind of device, and are found
 * again. */
#include "tests/support/test.h"

#include "src/train/lineage.h"

#include <stdlib.h>
#include <string.h>

static json_t *launch(int generation, const char *kind) {
    return json_pack("{s:i, s:s}", "generation", generation, "device_kind", kind);
}

static void assert_finds(const char *text, const char *kind, const char *plans) {
    char *found_kind, *found;
    assert_ok(lineage_find_plans(text, &found_kind, &found));
    if (plans == NULL) {
        assert_null(found);
        assert_null(found_kind);
    } else {
        assert_string_equal(found, plans);
        assert_string_equal(found_kind, kind);
    }
    free(found);
    free(found_kind);
}

/* The text of a run that goes on from `earlier` on `kind`, telling `plans`. */
static char *next_launch(const char *earlier, int generation, const char *kind,
                         const char *plans) {
    Lineage *lineage;
    assert_ok(lineage_open(earlier, "file", launch(generation, kind), &lineage));
    assert_ok(lineage_note_plans(lineage, plans));
    char *text = strdup(lineage_text(lineage));
    lineage_close(lineage);
    return text;
}

static void a_launch_without_plans_has_no_such_member(void **state) {
    (void)state;
    char *first = next_launch(NULL, 1, "cpu", ""),
         *second = next_launch(first, 2, "cpu", "");
    assert_string_equal(second, "[{\"generation\":1,\"device_kind\":\"cpu\"},"
                                "{\"generation\":2,\"device_kind\":\"cpu\"}]");
    assert_finds(second, NULL, NULL);
    free(first);
    free(second);
}

static void the_newest_plans_are_found_behind_launches_that_told_none(void **state) {
    (void)state;
    char *first = next_launch(NULL, 1, "cuda a", "conv = 1\n\"gemm\" = 2\n");
    char *second = next_launch(first, 2, "cpu", "");
    assert_finds(first, "cuda a", "conv = 1\n\"gemm\" = 2\n");
    assert_finds(second, "cuda a", "conv = 1\n\"gemm\" = 2\n");
    char *third = next_launch(second, 3, "cuda b", "conv = 7\n");
    assert_finds(third, "cuda b", "conv = 7\n");
    assert_non_null(strstr(third, "conv = 1")); /* another kind's stay */
    char *fourth = next_launch(third, 4, "cuda b", "conv = 7\ngemm = 8\n");
    assert_finds(fourth, "cuda b", "conv = 7\ngemm = 8\n");
    assert_null(strstr(strstr(fourth, "conv = 7") + 1, "conv = 7")); /* told once */
    free(first);
    free(second);
    free(third);
    free(fourth);
}

static void plans_that_change_between_saves_change_the_text(void **state) {
    (void)state;
    Lineage *lineage;
    assert_ok(lineage_open("[]", "file", launch(1, "cuda a"), &lineage));
    assert_null(strstr(lineage_text(lineage), "plans"));
    assert_ok(lineage_note_plans(lineage, "one\n"));
    assert_finds(lineage_text(lineage), "cuda a", "one\n");
    const char *before = lineage_text(lineage);
    assert_ok(lineage_note_plans(lineage, "one\n"));
    assert_ptr_equal(lineage_text(lineage), before);
    assert_ok(lineage_note_plans(lineage, "one\ntwo\n"));
    assert_finds(lineage_text(lineage), "cuda a", "one\ntwo\n");
    lineage_close(lineage);
}

static void what_is_no_list_is_refused_by_name(void **state) {
    (void)state;
    Lineage *lineage;
    assert_fails(lineage_open("{}", "that file", launch(1, "cpu"), &lineage),
                 STATUS_CORRUPT, "that file");
    assert_null(lineage);
    assert_fails(lineage_open("[", "that file", launch(1, "cpu"), &lineage), STATUS_CORRUPT,
                 "not a list");
    assert_finds("", NULL, NULL);
    assert_finds("{\"plans\": \"x\"}", NULL, NULL);
    assert_finds("[1, \"x\", {\"plans\": 3}]", NULL, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_launch_without_plans_has_no_such_member),
        cmocka_unit_test(the_newest_plans_are_found_behind_launches_that_told_none),
        cmocka_unit_test(plans_that_change_between_saves_change_the_text),
        cmocka_unit_test(what_is_no_list_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

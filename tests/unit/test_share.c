/* Which ranks write a checkpoint together, and which segments: told by whom rank 0 hears of which ones. */
#include "tests/support/test.h"

#include "src/checkpoint/share.h"
#include "tests/support/checkpoint_state.h"

enum { RANKS = 6 };

/* Three hosts: ranks 0 to 2, 3 and 4, and 5. */
static const int64_t host_ranks[RANKS] = {0, 1, 2, 0, 1, 0};

static int roots[RANKS], root_count;
static size_t heard; /* bytes from them */

static Status agree(Collective *self, Status mine) {
    (void)self;
    return mine;
}

/* As if each rank told of its own place what rank 0 tells of its. */
static Status gather(Collective *self, const void *mine, size_t bytes, void *all) {
    (void)self;
    (void)mine;
    assert_int_equal(bytes, 2 * sizeof(int64_t));
    for (int64_t rank = 0; rank < RANKS; rank++) {
        const int64_t place[] = {host_ranks[rank], rank};
        memcpy((char *)all + (size_t)rank * bytes, rank == 0 ? mine : place, bytes);
    }
    return STATUS_OK;
}

static Status broadcast(Collective *self, void *data, size_t bytes, int root) {
    (void)self;
    if (root == 0) return STATUS_OK;
    memset(data, root, bytes);
    roots[root_count++] = root;
    heard += bytes;
    return STATUS_OK;
}

static const CollectiveOps ops = {.agree = agree, .gather = gather, .broadcast = broadcast};

static void each_host_gives_one_writer_before_any_gives_a_second(void **unused) {
    (void)unused;
    static const int order[] = {3, 5, 1, 4, 2};
    Collective collective = {.ops = &ops, .size = RANKS, .hosts = 3};
    char path[64];
    int directory = temporary_directory("/tmp", path), not_finite;
    State *state;
    CheckpointPlan *plan;
    CheckpointWriting *writing;
    Digest digest;
    assert_ok(known_state(KNOWN_LARGE, &state));
    assert_ok(checkpoint_plan(state, &KNOWN_TEXT, 0, &plan));
    for (int writers = 2; writers <= RANKS; writers++) {
        Share *share;
        assert_ok(share_open(&collective, state, path, writers, &share));
        assert_ok(checkpoint_write_create(plan, directory, "a.h5", &writing));
        int64_t segments = checkpoint_write_segments(writing);
        assert_int_equal(segments, 6);
        assert_ok(share_offer(share, writing));
        assert_ok(share_announce(share));
        assert_ok(share_write(share, state, writing, &digest, &not_finite));
        root_count = 0;
        heard = 0;
        assert_ok(share_collect(share, writing));
        assert_int_equal(root_count, writers - 1);
        assert_memory_equal(roots, order, (size_t)root_count * sizeof *roots);
        /* rank 0 has the rest */
        assert_int_equal(heard, (size_t)(segments - segments / writers) * sizeof(Digest));
        checkpoint_write_discard(writing);
        share_close(share);
    }
    checkpoint_plan_destroy(plan);
    state_destroy(state);
    close(directory);
    rmdir(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_host_gives_one_writer_before_any_gives_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

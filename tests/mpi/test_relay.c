/* Frames arrive whole, in order and everywhere, from any root, over one host or several, and also where a host's
 * ranks have no memory in common. */
#include "dist/relay.h"
#include "dist/world.h"
#include "tests/support/test.h"

#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { FRAME = 8192, FRAMES = 100, END = -7 };

static Collective *world;

static unsigned char byte_of(int frame, size_t i) {
    return (unsigned char)((size_t)frame * 101 + i * 7 + i / 251);
}

static size_t bytes_of(int frame) {
    return frame % 3 == 0 ? FRAME : 1 + (size_t)frame * 61 % FRAME;
}

static void send_all(Relay *relay) {
    for (int frame = 0; frame < FRAMES; frame++) {
        unsigned char *room = relay->find_room(relay);
        for (size_t i = 0; i < bytes_of(frame); i++)
            room[i] = byte_of(frame, i);
        assert_ok(relay->send(relay, (int64_t)bytes_of(frame)));
    }
    relay->find_room(relay);
    assert_ok(relay->send(relay, END));
}

static void receive_all(Relay *relay, useconds_t pause_us) {
    const unsigned char *frame;
    int64_t bytes;
    for (int number = 0; number < FRAMES; number++) {
        assert_ok(relay->receive(relay, &frame, &bytes));
        assert_int_equal(bytes, bytes_of(number));
        if (pause_us > 0 && number % 10 == 0) usleep(pause_us); /* it stays as it is */
        for (size_t i = 0; i < (size_t)bytes; i++)
            assert_int_equal(frame[i], byte_of(number, i));
    }
    assert_ok(relay->receive(relay, &frame, &bytes));
    assert_int_equal(bytes, END);
}

static void use(int root, int host, int hosts, useconds_t pause_us) {
    Relay *relay;
    assert_ok(relay_open(world, root, FRAME, host, hosts, &relay));
    if (world->rank == root)
        send_all(relay);
    else
        receive_all(relay, pause_us);
    relay->close(relay);
}

static void frames_arrive_from_any_root(void **unused) {
    (void)unused;
    for (int root = 0; root < world->size; root++)
        use(root, 0, 1, 0);
}

static void a_slow_rank_misses_nothing(void **unused) {
    (void)unused;
    for (int slow = 0; slow < world->size; slow++)
        use(0, 0, 1, world->rank == slow ? 2000 : 0);
}

/* Neighbours in the launch, and ranks that are far from each other in it. */
static void frames_arrive_over_several_hosts(void **unused) {
    (void)unused;
    for (int root = 0; root < world->size; root++) {
        use(root, world->rank / 2, (world->size + 1) / 2, 0);
        use(root, world->rank % 2, world->size < 2 ? 1 : 2, 0);
        use(root, world->rank, world->size, 0);
    }
}

/* The ring's file cannot be given its size: every rank is on its own. */
static void ranks_that_share_no_memory_get_messages(void **unused) {
    (void)unused;
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = (struct rlimit){4096, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    for (int root = 0; root < world->size; root++) {
        use(root, 0, 1, 0);
        use(root, world->rank / 2, (world->size + 1) / 2, 0);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
}

static double processor_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void ranks_that_wait_for_a_frame_sleep(void **unused) {
    (void)unused;
    Relay *relay;
    assert_ok(world->ops->relay_open(world, 0, FRAME, &relay));
    double before = processor_seconds();
    if (world->rank == 0) {
        usleep(300 * 1000);
        send_all(relay);
    } else {
        receive_all(relay, 0);
        assert_true(processor_seconds() - before < 0.15);
    }
    relay->close(relay);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_from_any_root),
        cmocka_unit_test(a_slow_rank_misses_nothing),
        cmocka_unit_test(frames_arrive_over_several_hosts),
        cmocka_unit_test(ranks_that_share_no_memory_get_messages),
        cmocka_unit_test(ranks_that_wait_for_a_frame_sleep),
    };
    if (world_start(&argc, &argv, &world) != STATUS_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    world_finish(world);
    return failed;
}

/* The log of owners: what may follow what, also when processes race or die. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/hash.h"
#include "migrate/ticket.h"

static const uint8_t vm[16] = {1, 2, 3};
static const uint8_t peer[16] = {9, 9, 9};

struct fixture {
    char dir[64];
    struct ticket_store *store;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    snprintf(f->dir, sizeof(f->dir), "/tmp/ferry-ticket-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(ticket_store_open(f->dir, &f->store, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char path[512];
    struct dirent *entry;

    ticket_store_close(f->store);
    snprintf(path, sizeof(path), "%s/.tickets", f->dir);
    DIR *dir = opendir(path);
    while ((entry = readdir(dir)))
        unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    rmdir(path);
    rmdir(f->dir);
    free(f);
    return 0;
}

static int reserve(struct fixture *f, uint64_t epoch)
{
    uint64_t logged;
    return ticket_reserve(f->store, vm, epoch, "web", peer, &logged, NULL);
}

static enum ticket_state look(struct fixture *f, uint64_t epoch)
{
    enum ticket_state state = TICKET_NONE;
    assert_int_equal(ticket_look(f->store, vm, epoch, &state, NULL), 0);
    return state;
}

static int hand_over(struct fixture *f, uint64_t epoch)
{
    struct ticket_record r = {.epoch = epoch, .name = "web", .peer_uri = "unix:/x"};
    memcpy(r.vm_id, vm, sizeof(vm));
    memcpy(r.peer_host, peer, sizeof(peer));
    return ticket_hand_over(f->store, &r, NULL);
}

static void test_host_id_stays(void **state)
{
    struct fixture *f = *state;
    struct ticket_store *again;
    struct stat st;
    char path[96];

    assert_int_equal(ticket_store_open(f->dir, &again, NULL), 0);
    assert_memory_equal(ticket_store_host(f->store), ticket_store_host(again), 16);
    ticket_store_close(again);
    snprintf(path, sizeof(path), "%s/.tickets", f->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
}

static void test_epochs_only_grow(void **state)
{
    struct fixture *f = *state;
    uint64_t logged = 0;
    struct ferry_error err = {0};

    assert_int_equal(look(f, 5), TICKET_NONE);
    assert_int_equal(reserve(f, 5), 0);
    assert_int_equal(look(f, 5), TICKET_INCOMING);
    assert_int_equal(ticket_reserve(f->store, vm, 5, "web", peer, &logged, &err), -ESTALE);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_int_equal(logged, 5);
    assert_int_equal(reserve(f, 4), -ESTALE);
    assert_int_equal(reserve(f, LIMIT_EPOCH + 1), -ESTALE);
    assert_int_equal(reserve(f, 6), 0);
    assert_int_equal(look(f, 5), TICKET_ABORTED); /* what was undecided is over */
    assert_int_equal(ticket_own(f->store, vm, 5, NULL), -ESTALE);
    assert_int_equal(ticket_own(f->store, vm, 6, NULL), 0);
    assert_int_equal(look(f, 6), TICKET_OWNED);
    assert_int_equal(look(f, 4), TICKET_UNKNOWN);
    assert_int_equal(look(f, 7), TICKET_NONE);
}

static void test_owned_and_aborted_exclude_each_other(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(reserve(f, 1), 0);
    assert_int_equal(ticket_own(f->store, vm, 1, NULL), 0);
    assert_int_equal(ticket_abort(f->store, vm, 1, NULL), -ESTALE);
    assert_int_equal(look(f, 1), TICKET_OWNED);
    assert_int_equal(reserve(f, 2), 0);
    assert_int_equal(ticket_abort(f->store, vm, 2, NULL), 0);
    assert_int_equal(ticket_abort(f->store, vm, 2, NULL), 0); /* once more is fine */
    assert_int_equal(ticket_own(f->store, vm, 2, NULL), -ESTALE);
    assert_int_equal(look(f, 1), TICKET_OWNED); /* still known */
    assert_int_equal(ticket_abort(f->store, vm, 1, NULL), -ESTALE);
    /* An epoch nobody has heard of, aborted: its HELLO comes too late. */
    assert_int_equal(ticket_abort(f->store, vm, 9, NULL), 0);
    assert_int_equal(reserve(f, 9), -ESTALE);
    assert_int_equal(ticket_own(f->store, vm, 9, NULL), -ESTALE);
}

static void test_history_is_bounded_and_then_unknown(void **state)
{
    struct fixture *f = *state;

    for (uint64_t epoch = 1; epoch <= UINT64_C(3) * LIMIT_TICKET_HISTORY; epoch++) {
        assert_int_equal(reserve(f, epoch), 0);
        assert_int_equal(ticket_own(f->store, vm, epoch, NULL), 0);
    }
    assert_int_equal(look(f, UINT64_C(3) * LIMIT_TICKET_HISTORY - 1), TICKET_OWNED);
    assert_int_equal(look(f, 1), TICKET_UNKNOWN);
    assert_int_equal(ticket_abort(f->store, vm, 1, NULL), -ESTALE);
}

static void test_source_settles_once(void **state)
{
    struct fixture *f = *state;
    struct ticket_record r;

    assert_int_equal(ticket_find(f->store, vm, TICKET_SOURCE, &r, NULL), -ENOENT);
    assert_int_equal(ticket_settle(f->store, vm, 3, TICKET_KEPT, NULL), -ESTALE);
    assert_int_equal(hand_over(f, 3), 0);
    assert_int_equal(hand_over(f, 3), -ESTALE);
    assert_int_equal(ticket_find(f->store, vm, TICKET_SOURCE, &r, NULL), 0);
    assert_int_equal(r.state, TICKET_HANDOVER);
    assert_string_equal(r.peer_uri, "unix:/x");
    assert_memory_equal(r.peer_host, peer, 16);
    assert_true(r.process_alive);
    assert_int_equal(ticket_settle(f->store, vm, 2, TICKET_KEPT, NULL), -ESTALE);
    assert_int_equal(ticket_settle(f->store, vm, 3, TICKET_KEPT, NULL), 0);
    assert_int_equal(ticket_settle(f->store, vm, 3, TICKET_KEPT, NULL), 0);
    assert_int_equal(ticket_settle(f->store, vm, 3, TICKET_RELEASED, NULL), -ESTALE);
    /* It runs here at epoch 4 now: nobody may bring epoch 4. */
    assert_int_equal(reserve(f, 4), -ESTALE);
    assert_int_equal(reserve(f, 5), 0);
}

static void test_list_tells_dead_processes(void **state)
{
    struct fixture *f = *state;
    CLEANUP_FREE struct ticket_record *records = NULL;
    size_t count;
    int status;

    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid)
        _exit(hand_over(f, 7) ? 1 : 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(reserve(f, 8), 0);
    assert_int_equal(ticket_list(f->store, &records, &count, NULL), 0);
    assert_int_equal(count, 2);
    assert_int_equal(records[0].role, TICKET_SOURCE);
    assert_int_equal(records[0].state, TICKET_HANDOVER);
    assert_false(records[0].process_alive);
    assert_string_equal(records[0].name, "web");
    assert_int_equal(records[1].state, TICKET_INCOMING);
    assert_true(records[1].process_alive);
}

static void spoil(struct fixture *f, const char *text)
{
    char path[160], id[33];

    snprintf(path, sizeof(path), "%s/.tickets/%s", f->dir, hex_encode(vm, 16, id));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* A ticket that cannot be read is never taken for "nothing was logged". */
static void test_damaged_ticket_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "{}",
        "{\"version\":2,\"vm_id\":\"01020300000000000000000000000000\",\"source\":null,"
        "\"destination\":null,\"decided\":[]}",
        "{\"version\":1,\"vm_id\":\"ff020300000000000000000000000000\",\"source\":null,"
        "\"destination\":null,\"decided\":[]}",
        "{\"version\":1,\"vm_id\":\"01020300000000000000000000000000\",\"source\":null,"
        "\"destination\":{\"epoch\":-1,\"state\":\"OWNED\",\"name\":\"x\",\"peer_uri\":\"\","
        "\"peer_host\":\"00000000000000000000000000000000\",\"pid\":1,\"pid_start\":1,"
        "\"realtime_ns\":1,\"running\":true},\"decided\":[]}",
        "{\"version\":1,\"vm_id\":\"01020300000000000000000000000000\",\"source\":null,"
        "\"destination\":{\"epoch\":1,\"state\":\"HANDOVER\",\"name\":\"x\",\"peer_uri\":\"\","
        "\"peer_host\":\"00000000000000000000000000000000\",\"pid\":1,\"pid_start\":1,"
        "\"realtime_ns\":1,\"running\":true},\"decided\":[]}",
    };
    struct fixture *f = *state;
    enum ticket_state word;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct ferry_error err = {0};
        spoil(f, bad[i]);
        assert_int_equal(ticket_look(f->store, vm, 1, &word, &err), -EBADMSG);
        assert_int_equal(err.kind, FERRY_REFUSED);
        assert_int_equal(reserve(f, 1), -EBADMSG);
        assert_int_equal(ticket_abort(f->store, vm, 1, NULL), -EBADMSG);
        assert_int_equal(hand_over(f, 1), -EBADMSG);
    }
}

/* One process owns, another aborts, at the same time, many times: exactly one succeeds. */
static void test_race_has_one_winner(void **state)
{
    struct fixture *f = *state;

    for (uint64_t epoch = 1; epoch <= 100; epoch++) {
        int go[2], status[2];
        pid_t pid[2];
        assert_int_equal(reserve(f, epoch), 0);
        assert_int_equal(pipe(go), 0);
        for (int i = 0; i < 2; i++) {
            pid[i] = fork();
            assert_true(pid[i] >= 0);
            if (pid[i])
                continue;
            char byte;
            close(go[1]);
            ssize_t ignored = read(go[0], &byte, 1); /* the end of the pipe is the start */
            (void)ignored;
            _exit((i ? ticket_abort(f->store, vm, epoch, NULL)
                     : ticket_own(f->store, vm, epoch, NULL))
                      ? 1
                      : 0);
        }
        close(go[0]);
        close(go[1]);
        for (int i = 0; i < 2; i++)
            assert_int_equal(waitpid(pid[i], &status[i], 0), pid[i]);
        assert_int_equal(WEXITSTATUS(status[0]) + WEXITSTATUS(status[1]), 1);
        assert_int_equal(look(f, epoch), WEXITSTATUS(status[0]) ? TICKET_ABORTED : TICKET_OWNED);
    }
}

/* kill -9 at any instant of a change: the log is one or the other, and readable. */
static void test_killed_writer_leaves_old_or_new(void **state)
{
    struct fixture *f = *state;
    unsigned owned = 0;

    for (uint64_t epoch = 1; epoch <= 60; epoch++) {
        int status;
        assert_int_equal(reserve(f, epoch), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid)
            _exit(ticket_own(f->store, vm, epoch, NULL) ? 1 : 0);
        usleep((useconds_t)(epoch * 15));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        enum ticket_state word = look(f, epoch);
        assert_true(word == TICKET_INCOMING || word == TICKET_OWNED);
        if (WIFEXITED(status))
            assert_int_equal(word, TICKET_OWNED);
        owned += word == TICKET_OWNED;
        /* And the lock went with it: the next word can be had. */
        assert_int_equal(ticket_abort(f->store, vm, epoch, NULL),
                         word == TICKET_OWNED ? -ESTALE : 0);
    }
    print_message("%u of 60 had logged before they were killed\n", owned);
}

static unsigned files(struct fixture *f)
{
    char path[96];
    unsigned count = 0;

    snprintf(path, sizeof(path), "%s/.tickets", f->dir);
    DIR *dir = opendir(path);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* A draft saves time and decides nothing. */
static void test_draft_is_used_only_if_nothing_has_changed(void **state)
{
    struct fixture *f = *state;
    struct ticket_record r;

    assert_int_equal(reserve(f, 1), 0);
    unsigned before = files(f);
    ticket_draft_own(f->store, vm);
    assert_int_equal(look(f, 1), TICKET_INCOMING);
    assert_int_equal(ticket_own(f->store, vm, 1, NULL), 0);
    assert_int_equal(look(f, 1), TICKET_OWNED);
    assert_int_equal(files(f), before); /* it has become the file */

    assert_int_equal(reserve(f, 2), 0);
    ticket_draft_own(f->store, vm);
    assert_int_equal(ticket_abort(f->store, vm, 2, NULL), 0);
    assert_int_equal(ticket_own(f->store, vm, 2, NULL), -ESTALE);
    assert_int_equal(look(f, 2), TICKET_ABORTED);

    assert_int_equal(reserve(f, 3), 0);
    ticket_draft_own(f->store, vm);
    assert_int_equal(hand_over(f, 9), 0); /* something else has been logged */
    assert_int_equal(ticket_own(f->store, vm, 3, NULL), 0);
    assert_int_equal(look(f, 3), TICKET_OWNED);
    assert_int_equal(ticket_find(f->store, vm, TICKET_SOURCE, &r, NULL), 0);
    assert_int_equal(r.epoch, 9);

    struct ticket_record handed = {.epoch = 10, .name = "web"};
    memcpy(handed.vm_id, vm, sizeof(vm));
    ticket_draft_hand_over(f->store, &handed);
    ticket_draft_hand_over(f->store, &handed);
    ticket_draft_drop(f->store);
    ticket_draft_drop(f->store);
    assert_int_equal(files(f), before);
    ticket_draft_hand_over(f->store, &handed);
    assert_int_equal(ticket_hand_over(f->store, &handed, NULL), 0);
    assert_int_equal(ticket_find(f->store, vm, TICKET_SOURCE, &r, NULL), 0);
    assert_int_equal(r.epoch, 10);
    assert_int_equal(r.state, TICKET_HANDOVER);
    assert_int_equal(files(f), before);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_host_id_stays),
        TEST(test_epochs_only_grow),
        TEST(test_owned_and_aborted_exclude_each_other),
        TEST(test_history_is_bounded_and_then_unknown),
        TEST(test_source_settles_once),
        TEST(test_list_tells_dead_processes),
        TEST(test_damaged_ticket_is_refused),
        TEST(test_draft_is_used_only_if_nothing_has_changed),
        TEST(test_race_has_one_winner),
        TEST(test_killed_writer_leaves_old_or_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

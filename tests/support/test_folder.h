/* A folder of one test, and shell scripts in it: for tests with other programs as witnesses. */
#ifndef FERRY_TESTS_SUPPORT_TEST_FOLDER_H
#define FERRY_TESTS_SUPPORT_TEST_FOLDER_H

/* Setup and teardown of a cmocka test. */
int test_folder_make(void **state);
int test_folder_remove(void **state);
/* Run a script in the folder; its exit status. */
int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A file in the folder, by open's flags. */
int test_folder_open(const char *name, int flags);

#define TEST_IN_FOLDER(name) \
    cmocka_unit_test_setup_teardown(name, test_folder_make, test_folder_remove)

#endif

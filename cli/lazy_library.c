/*
 * Libraries that are loaded when their first function is called: those that few commands need, and
 * whose loading, with all that they bring along, takes longer than a machine takes to start.  The
 * stubs that call lazy_resolve, and its tables, are made by tools/lazy-stubs.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Of the stubs: where each jumps, its name, the index of its library, the libraries' names. */
extern _Atomic(void *) lazy_slots[];
extern const char lazy_names[], lazy_sonames[];
extern const uint8_t lazy_owners[];

void *lazy_resolve(uint64_t index);

/* The index-th of strings that lie one behind the other. */
static const char *string_at(const char *strings, uint64_t index)
{
    for (; index; index--)
        strings += strlen(strings) + 1;
    return strings;
}

/* As the dynamic linker ends a program that lacks a library. */
static void give_up(void)
{
    dprintf(STDERR_FILENO, "ferry: %s\n", dlerror());
    _exit(127);
}

/* The function of the stub with this index, which is called directly from now on.  Any thread. */
void *lazy_resolve(uint64_t index)
{
    void *library =
        dlopen(string_at(lazy_sonames, lazy_owners[index]), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    void *function = library ? dlsym(library, string_at(lazy_names, index)) : NULL;

    if (!function)
        give_up();
    atomic_store(&lazy_slots[index], function);
    return function;
}

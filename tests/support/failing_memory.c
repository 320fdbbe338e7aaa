// Makes chosen allocations fail, in a process that has this library in LD_PRELOAD.
// An allocation counts if it was asked for from one of the libraries that watch() names.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

enum { kMost = 256 };
struct Code {
  uintptr_t begin, end;
};
static struct Code watched[kMost];
static int n_watched;
static atomic_long first, last, n_seen, n_failed;  // fails first .. last; 0: none

struct Choice {
  const char* names;  // separated by spaces; all libraries but these if it begins with '-'
};

static int add_library(struct dl_phdr_info* library, size_t size, void* data) {
  (void)size;
  const char* names = ((struct Choice*)data)->names;
  const int excludes = *names == '-';
  char list[256], *rest;
  strncpy(list, names + excludes, sizeof list - 1);
  list[sizeof list - 1] = 0;
  int is_named = 0;
  for (char* name = strtok_r(list, " ", &rest); name; name = strtok_r(NULL, " ", &rest))
    is_named |= strstr(library->dlpi_name, name) != NULL;
  if (is_named == excludes) return 0;
  for (int i = 0; i < library->dlpi_phnum && n_watched < kMost; ++i) {
    const ElfW(Phdr)* part = &library->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
    const uintptr_t begin = library->dlpi_addr + part->p_vaddr;
    watched[n_watched++] = (struct Code){begin, begin + part->p_memsz};
  }
  return 0;
}

void watch(const char* names) {
  n_watched = 0;
  struct Choice choice = {names};
  dl_iterate_phdr(add_library, &choice);
}

void fail_from(long n, long count) {
  n_seen = n_failed = 0;
  last = n + count - 1;
  first = n;
}

void fail_none(void) { first = 0; }

long failures(void) { return n_failed; }

static int fails(const void* caller) {
  if (!first) return 0;
  int counts = 0;
  for (int i = 0; i < n_watched && !counts; ++i)
    counts = (uintptr_t)caller >= watched[i].begin && (uintptr_t)caller < watched[i].end;
  if (!counts) return 0;
  const long n = ++n_seen;
  if (n < first || n > last) return 0;
  ++n_failed;
  errno = ENOMEM;
  return 1;
}

#define FAILS fails(__builtin_return_address(0))

void* malloc(size_t size) { return FAILS ? NULL : __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return FAILS ? NULL : __libc_calloc(n, size); }
void* realloc(void* old, size_t size) { return FAILS ? NULL : __libc_realloc(old, size); }
void* memalign(size_t alignment, size_t size) {
  return FAILS ? NULL : __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  return FAILS ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void** result, size_t alignment, size_t size) {
  if (FAILS || !(*result = __libc_memalign(alignment, size))) return ENOMEM;
  return 0;
}
void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
  static void* (*next)(void*, size_t, int, int, int, off_t);
  if (FAILS) return MAP_FAILED;
  if (!next) next = dlsym(RTLD_NEXT, "mmap");
  return next(address, size, protection, flags, file, offset);
}

/* Counts what torch's CPU allocator holds, below torch: by what it asks of the C library. To be preloaded.

   c10/core/impl/alloc_cpu.cpp asks by posix_memalign for exactly the bytes of a storage and gives them back by free, so
   a request is torch's if its caller lies in libc10. The rest (Python's objects, oneDNN's and MKL's own scratch memory)
   is counted apart, from a threshold on. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { BUCKETS = 1 << 16, PIECES = 1 << 20, TORCH = 0, OTHERS = 1 };

struct piece { void *address; size_t bytes; int whose; struct piece *next; };

static struct piece pieces[PIECES], *buckets[BUCKETS], *spare;
static size_t used, lost;
static long long live[2], peak[2];
static size_t threshold = (size_t)-1;
static uintptr_t torch_from, torch_to;
static atomic_flag lock = ATOMIC_FLAG_INIT;

static void acquire(void) { while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)); }
static void release(void) { atomic_flag_clear_explicit(&lock, memory_order_release); }
static struct piece **bucket(void *address) { return &buckets[((uintptr_t)address >> 4) * 2654435761u % BUCKETS]; }

static void took(void *address, size_t bytes, uintptr_t caller) {
    int whose = torch_from <= caller && caller < torch_to ? TORCH : OTHERS;
    if (!address || (whose == OTHERS && bytes < threshold)) return;
    acquire();
    struct piece *piece = spare;
    if (piece) spare = piece->next;
    else if (used < PIECES) piece = &pieces[used++];
    else lost++;
    if (piece) {
        struct piece **head = bucket(address);
        *piece = (struct piece){address, bytes, whose, *head};
        *head = piece;
        live[whose] += (long long)bytes;
        if (live[whose] > peak[whose]) peak[whose] = live[whose];
    }
    release();
}

static void gave(void *address) {
    if (!address) return;
    acquire();
    for (struct piece **at = bucket(address); *at; at = &(*at)->next) {
        if ((*at)->address != address) continue;
        struct piece *piece = *at;
        *at = piece->next;
        live[piece->whose] -= (long long)piece->bytes;
        piece->next = spare;
        spare = piece;
        break;
    }
    release();
}

#define CALLER ((uintptr_t)__builtin_return_address(0))

int posix_memalign(void **address, size_t alignment, size_t bytes) {
    void *made = __libc_memalign(alignment, bytes);
    if (!made) return ENOMEM;
    took(made, bytes, CALLER);
    *address = made;
    return 0;
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    void *made = __libc_memalign(alignment, bytes);
    took(made, bytes, CALLER);
    return made;
}

void *memalign(size_t alignment, size_t bytes) {
    void *made = __libc_memalign(alignment, bytes);
    took(made, bytes, CALLER);
    return made;
}

void *malloc(size_t bytes) {
    void *made = __libc_malloc(bytes);
    if (bytes >= threshold) took(made, bytes, 0);
    return made;
}

void *calloc(size_t count, size_t bytes) {
    void *made = __libc_calloc(count, bytes);
    if (count * bytes >= threshold) took(made, count * bytes, 0);
    return made;
}

void *realloc(void *address, size_t bytes) {
    gave(address);
    void *made = __libc_realloc(address, bytes);
    if (bytes >= threshold) took(made, bytes, 0);
    return made;
}

void free(void *address) {
    gave(address);
    __libc_free(address);
}

/* Tell whose the requests between two addresses are, and from which size on those of others count. */
void counter_knows(uintptr_t from, uintptr_t to, size_t others) {
    torch_from = from;
    torch_to = to;
    threshold = others;
}

static long long start[2];

void counter_start(void) {
    acquire();
    for (int whose = 0; whose < 2; whose++) start[whose] = peak[whose] = live[whose];
    release();
}

/* Return the greatest sum above the start, of torch (0) or of others (1); -1 where the table was too small. */
long long counter_peak(int whose) { return lost ? -1 : peak[whose] - start[whose]; }
long long counter_live(int whose) { return lost ? -1 : live[whose] - start[whose]; }

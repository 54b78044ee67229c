// Pages of the page cache that were read, added and made dirty, and buffers made dirty, by process.
#define ROW_COLUMNS 4
#include "counters.h"
#include "folio.h"

enum column { ACCESSED, BUFFER_DIRTIED, ADDED, DIRTIED };

#define PLACES_LOG2 12
#define PLACES (1 << PLACES_LOG2)

// What a task last asked mm_filemap_get_pages for. Another task may take its place.
struct request {
    u64 file;  // its address_space
    u64 first; // page, the first one that was still lacking
    u64 last;  // page, as it was asked for
    u64 end;   // page that it ends in, within the file
    u32 task;
    u32 number; // grows with each
};
BPF_ARRAY(requests, struct request, PLACES);

static __always_inline struct request *request_of(u32 task)
{
    u32 place = task % PLACES;
    return requests.lookup(&place);
}

// A page is added to be read, or to be written: then the same task makes it dirty, before it reads anything. What
// was added stands here by its folio's address until another folio takes the place; one write's two steps are
// seldom that far apart.
struct addition {
    u64 folio;
    u32 task;
    u32 request; // number of the task's last one
};
BPF_ARRAY(additions, struct addition, PLACES);

// An argument of fentry or fexit is a pointer to the verifier, which does not let it be reckoned with: the same
// read from the stack is a number.
static __always_inline u64 number_of(u64 pointer)
{
    u64 number = 0;
    bpf_probe_read_kernel(&number, sizeof(number), &pointer);
    return number;
}

static __always_inline struct addition *addition_of(u64 folio)
{
    u32 place = folio * 0x9E3779B97F4A7C15ULL >> (64 - PLACES_LOG2);
    return additions.lookup(&place);
}

static __always_inline int on_add(u64 argument, long ret)
{
    u64 folio = number_of(argument);
    u32 task = bpf_get_current_pid_tgid();
    struct request *request = request_of(task);
    struct addition *addition = addition_of(folio);
    if (ret || !addition || !request)
        return 0;
    addition->folio = folio;
    addition->task = task;
    addition->request = request->number;
    count(ADDED, pages_of(folio));
    return 0;
}

static __always_inline int on_dirty(u64 argument)
{
    u64 folio = number_of(argument);
    u32 task = bpf_get_current_pid_tgid();
    struct request *request = request_of(task);
    struct addition *addition = addition_of(folio);
    if (!addition || !request || addition->folio != folio)
        return 0;
    addition->folio = 0;
    if (addition->task == task && addition->request == request->number)
        count(DIRTIED, pages_of(folio));
    return 0;
}

static __always_inline int on_access(u64 argument)
{
    u64 folio = number_of(argument);
    struct addition *addition = addition_of(folio);
    if (addition && addition->folio == folio)
        addition->folio = 0;
    count(ACCESSED, pages_of(folio));
    return 0;
}

static __always_inline int on_buffer_dirty(void)
{
    count(BUFFER_DIRTIED, 1);
    return 0;
}

#if defined(ADDRESS_SPACE_HOST) && defined(INODE_I_SIZE)
static __always_inline u64 last_page_of(u64 file)
{
    u64 inode = 0;
    s64 size_bytes = 0;
    bpf_probe_read_kernel(&inode, sizeof(inode), (const void *)(file + ADDRESS_SPACE_HOST));
    bpf_probe_read_kernel(&size_bytes, sizeof(size_bytes), (const void *)(inode + INODE_I_SIZE));
    return size_bytes > 0 ? (size_bytes - 1) >> PAGE_SHIFT : 0;
}

// A read asks for the pages first to last, is given some of them, and asks again for those that it still lacks:
// only the first time counts. A page that one read ends in and the next one begins in counts once, as the
// kernel's own folio_mark_accessed has it.
static __always_inline int on_get_pages(u64 file, u64 first, u64 last)
{
    u32 task = bpf_get_current_pid_tgid();
    struct request *request = request_of(task);
    if (!request)
        return 0;
    request->number++;
    int same_file = request->task == task && request->file == file;
    if (same_file && request->last == last && request->first < first) {
        request->first = first;
        return 0;
    }
    u64 end = last_page_of(file);
    if (end > last)
        end = last;
    u64 pages = end + 1 - first;
    if (same_file && request->end == first)
        pages--;
    request->task = task;
    request->file = file;
    request->first = first;
    request->last = last;
    request->end = end;
    if (end >= first)
        count(ACCESSED, pages);
    return 0;
}
#endif

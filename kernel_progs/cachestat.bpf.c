// Pages of the page cache that were read, added and made dirty, and buffers made dirty, by process.
#define ROW_COLUMNS 8
#include "counters.h"
#include "folio.h"

enum column { ACCESSED, BUFFER_DIRTIED, ADDED, DIRTIED };

// A page is added to be read, or to be written: then it is made dirty before anybody reads it. What was added
// stands here, by its folio's address, until either happens, or until another folio takes the place: between
// a write's two steps that takes 4,096 other additions.
#define PLACES 4096
BPF_ARRAY(added, u64, PLACES);

static __always_inline u64 *place_of(u64 folio)
{
    u32 place = (folio * 0x9E3779B97F4A7C15ULL) >> 52; // 64 - log2(PLACES)
    return added.lookup(&place);
}

static __always_inline int on_add(u64 folio, long ret)
{
    if (ret)
        return 0;
    u64 *place = place_of(folio);
    if (place)
        *place = folio;
    count(ADDED, pages_of(folio));
    return 0;
}

static __always_inline int on_dirty(u64 folio)
{
    u64 *place = place_of(folio);
    if (!place || *place != folio)
        return 0;
    *place = 0;
    count(DIRTIED, pages_of(folio));
    return 0;
}

static __always_inline int on_access(u64 folio)
{
    u64 *place = place_of(folio);
    if (place && *place == folio)
        *place = 0;
    count(ACCESSED, pages_of(folio));
    return 0;
}

static __always_inline int on_buffer_dirty(void)
{
    count(BUFFER_DIRTIED, 1);
    return 0;
}

#if defined(ADDRESS_SPACE_HOST) && defined(INODE_I_SIZE)
// What a task last asked for; another task may take the place.
struct request {
    u64 task;
    u64 file;  // its address_space
    u64 first; // page, the first one that was still lacking
    u64 last;  // page, as it was asked for
    u64 end;   // page that it ends in, within the file
};
BPF_ARRAY(requests, struct request, PLACES);

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
    u32 place = task % PLACES;
    struct request *request = requests.lookup(&place);
    if (!request)
        return 0;
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

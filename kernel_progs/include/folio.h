// Pages of the page cache come in folios of 1, 2, 4, … pages (struct folio, 5.16); before that they come singly.
// The offsets of struct folio, and the number of the flag that says "more than one page", are the kernel's own
// (Program.numbers). Where a folio's length is kept has changed: struct page before 6.0, in its second page.
#pragma once
#include <linux/kconfig.h>

#if defined(FOLIO__NR_PAGES)
#define FOLIO_LENGTH FOLIO__NR_PAGES
#elif defined(FOLIO__FOLIO_NR_PAGES)
#define FOLIO_LENGTH FOLIO__FOLIO_NR_PAGES
#elif defined(FOLIO_PAGE) && defined(PAGE_COMPOUND_NR)
#define SIZEOF_STRUCT_PAGE 64
#define FOLIO_LENGTH (SIZEOF_STRUCT_PAGE + PAGE_COMPOUND_NR)
#endif

static __always_inline u64 pages_of(u64 folio)
{
#if defined(FOLIO_LENGTH) && defined(PAGEFLAGS_PG_HEAD)
    u64 flags = 0; // struct folio begins with them
    u32 pages = 0;
    bpf_probe_read_kernel(&flags, sizeof(flags), (const void *)folio);
    if (flags & (1ULL << PAGEFLAGS_PG_HEAD)) {
        bpf_probe_read_kernel(&pages, sizeof(pages), (const void *)(folio + FOLIO_LENGTH));
        return pages;
    }
#endif
    return 1;
}

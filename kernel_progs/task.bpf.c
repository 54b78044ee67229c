// Identities: gives every new process a slot, notes who owns it, and takes the slot back.
//
// A slot is given to a new owner only after every program's counts of the old one were read and
// committed: user space publishes in words[SETTLED_NS] the moment up to which that is so, and a slot
// whose owner was freed later than that stays at rest. While nobody publishes, nothing is given again.
//
// The slot that came back last is given first, so that the slots in use stay close together at the beginning
// of the tables, and `used_pages` says how far that reaches: user space reads no further.
//
// Processes that were there before the hooks are planted by the loader (supervisor/kernel/identities.py): it
// writes an order into `order` and takes its own name once more, which comes to the hook of renames. So the
// identities have one writer, the kernel, and what the order finds there is looked at where it changes.
#include "task.h"
#include "task_struct.h"

#define CLONE_PARENT 0x00008000
#define CLONE_THREAD 0x00010000

// Events that the kernel reports of a process just as it frees it (the release hook of another
// program, an RCU callback on another CPU) may come in this long after freed_ns.
#define REST_NS 20000000ULL

// How many unusable free slots one birth may pass over.
#define TRIES 4

// How many slots a birth looks at that may have rested enough: more than births use up.
#define WAKE_UPS 2

// Written by user space only. LOADER: the loader's thread id while its orders are to be followed, else 0.
enum word { SETTLED_NS, LOADER, WORDS };
BPF_F_TABLE("array", u32, u64, words, WORDS, MAP_FLAGS);

// Written by the kernel only.
enum tally { BIRTHS_WITHOUT_SLOT, CGROUPS_MADE, TALLIES };
BPF_F_TABLE("array", u32, u64, tallies, TALLIES, MAP_FLAGS);

// Slots that can be given, and those that are at rest, in the order in which they came back.
BPF_STACK(free_slots, u32, SLOTS);
BPF_QUEUE(resting_slots, u32, SLOTS);

// Which pages of `task` and of every program's rows have ever had an owner: only set, never cleared. Page 0 has
// slot 0, which always counts.
struct used_pages {
    u64 page[SLOTS / ROWS_PER_PAGE];
};

BPF_F_TABLE("array", u32, struct used_pages, used_pages, 1, MAP_FLAGS);

#if CGROUP_VERSION
// The paths of the cgroups that were made last: one that lives shorter than a tick has no folder any more by which
// it could be found. A longer path is cut, and of no use. CGROUP_PATHS comes from the loader.
#define CGROUP_PATH_BYTES 496

struct cgroup_path {
    u64 number;      // how many had been made with it, 0 = being written
    u64 id;
    char path[CGROUP_PATH_BYTES];
};

BPF_F_TABLE("array", u32, struct cgroup_path, cgroup_paths, CGROUP_PATHS, MAP_FLAGS);
#endif

// PLANT: `pid` gets the slot, unless the hook of forks has given it one. MAP: the thread `pid` of the process
// `ppid` is counted in that one's slot. EXITED, GONE: what was missed between /proc and PLANT. CGROUP: what /proc
// says afterwards; it holds unless a move has been seen meanwhile.
enum order_kind { PLANT, MAP, EXITED, GONE, CGROUP };

struct order {
    u64 number;      // the answer bears it
    u32 kind;
    u32 slot;
    u32 pid;
    u32 ppid;
    u64 start_ns;
    u32 exited;
    u32 is_thread;
    u64 cgroup_id;
    char comm[COMM_BYTES];
};

struct answer {
    u64 number;
    u64 slot;        // that `pid` has now
};

BPF_ARRAY(order, struct order, 1);
BPF_ARRAY(answer, struct answer, 1);

static __always_inline void set_slot(u32 pid, u32 slot)
{
    u32 number = pid / PIDS_PER_PAGE;
    struct pid_page *page = slot_of_pid.lookup(&number);
    if (page)
        page->slot[pid % PIDS_PER_PAGE] = slot;
}

static __always_inline u64 word(u32 index)
{
    u64 *value = words.lookup(&index);
    return value ? *value : 0;
}

static __always_inline void mark_used(u32 slot)
{
    u32 only = 0, number = slot / ROWS_PER_PAGE;
    struct used_pages *used = used_pages.lookup(&only);
    if (used && number < SLOTS / ROWS_PER_PAGE)
        used->page[number] = 1;
}

static __always_inline int has_rested(struct task *old, u64 settled)
{
    return !old->freed_ns || old->freed_ns + REST_NS < settled;
}

// The id of the one who had the slot leads there no more: whoever has it next may not be seen as it is born, and
// is nobody then.
static __always_inline void forget(u32 slot, u64 settled)
{
    struct task *former = task_of(slot);
    if (former && !(former->state & TASK_LIVE) && has_rested(former, settled) && slot_of(former->tgid) == slot)
        set_slot(former->tgid, 0);
}

static __always_inline void wake_up(u64 settled)
{
    u32 slot;
#pragma unroll
    for (int looks = 0; looks < WAKE_UPS; looks++) {
        if (resting_slots.peek(&slot))
            return;
        struct task *first = task_of(slot);
        if (first && !(first->state & TASK_LIVE) && !has_rested(first, settled))
            return;
        // Another CPU can have taken it meanwhile, so this may be the one behind it: take_slot looks again.
        if (resting_slots.pop(&slot))
            return;
        forget(slot, settled);
        free_slots.push(&slot, 0);
    }
}

static __always_inline u32 take_slot(void)
{
    u64 settled = word(SETTLED_NS);
    u32 slot;
    wake_up(settled);
#pragma unroll
    for (int tries = 0; tries < TRIES; tries++) {
        if (free_slots.pop(&slot))
            return 0;
        struct task *old = task_of(slot);
        // Two CPUs can free one slot at once, so that it stands there twice: an entry whose slot has an owner
        // is void.
        if (!old || old->state & TASK_LIVE)
            continue;
        if (has_rested(old, settled)) {
            mark_used(slot);
            return slot;
        }
        resting_slots.push(&slot, 0);
    }
    return 0;
}

static __always_inline void give_back(u32 slot, struct task *owner)
{
    owner->freed_ns = bpf_ktime_get_ns();
    owner->state &= ~TASK_LIVE;
    resting_slots.push(&slot, 0);
}

static __always_inline void move(struct task *self, u64 cgroup_id)
{
    if (self->cgroup_id == cgroup_id)
        return;
    self->cgroup_id = cgroup_id;
    self->moves++;
}

// A task has been made and has not run yet; the current task is the one that called fork.
static __always_inline int on_newtask(u32 pid, u64 clone_flags)
{
    u32 parent = current_tgid();
    u32 parent_slot = slot_of(parent);
    // The PID was given again before the kernel's delayed free of its last owner came in.
    u32 stale = slot_of(pid);
    struct task *former = task_of(stale);
    if (stale && former && former->state & TASK_LIVE && former->tgid == pid)
        give_back(stale, former);

    u32 is_thread = (clone_flags & CLONE_THREAD) != 0;
    if (is_thread && !THREAD_SLOTS) {
        set_slot(pid, parent_slot);
        return 0;
    }
    u32 slot = take_slot();
    if (!slot && is_thread) {
        set_slot(pid, parent_slot);
        return 0;
    }
    set_slot(pid, slot);
    struct task *self = task_of(slot);
    if (!self)
        return 0;
    if (!slot) {
        u32 tally = BIRTHS_WITHOUT_SLOT;
        u64 *births = tallies.lookup(&tally);
        if (births)
            __sync_fetch_and_add(births, 1);
        return 0;
    }
    struct task *mother = task_of(parent_slot);
    self->tgid = pid;
    self->ppid = clone_flags & CLONE_PARENT && !is_thread && mother && parent_slot ? mother->ppid : parent;
    self->start_ns = bpf_ktime_get_ns();
    self->exit_ns = 0;
    self->freed_ns = 0;
    self->cgroup_id = mother && parent_slot ? mother->cgroup_id : 0;
#if CGROUP_VERSION == 2
    if (!self->cgroup_id)
        self->cgroup_id = bpf_get_current_cgroup_id();
#endif
    bpf_get_current_comm(self->comm, COMM_BYTES);
    self->state = is_thread ? TASK_LIVE | TASK_THREAD : TASK_LIVE;
    return 0;
}

// exec ends the other threads, the leader's among them: the process that was marked as exited goes on. A thread
// that was not the leader takes the leader's id, and nobody frees its own. A process whose birth was not seen is
// nobody's, and no more counted as who had its id before.
static __always_inline int on_exec(u32 old_tid)
{
    u32 slot = slot_of(old_tid);
    struct task *thread = task_of(slot);
    if (THREAD_SLOTS && slot && thread && thread->tgid == old_tid && thread->state == (TASK_LIVE | TASK_THREAD))
        give_back(slot, thread);
    slot = slot_of(current_tgid());
    struct task *self = task_of(slot);
    if (!slot || !self)
        return 0;
    int live = self->state & TASK_LIVE && self->tgid == current_tgid();
    // A leader that has exited executes nothing: this is another process, and the owner's release was not seen.
    int owner_has_gone = live && old_tid == current_tgid() && self->exit_ns;
    if (owner_has_gone)
        give_back(slot, self);
    if (!live || owner_has_gone) {
        set_slot(current_tgid(), 0);
        return 0;
    }
    self->exit_ns = 0;
#if CGROUP_VERSION == 2
    // A process made with CLONE_INTO_CGROUP never moved. Twice, so that a move meanwhile is not undone.
    move(self, bpf_get_current_cgroup_id());
    move(self, bpf_get_current_cgroup_id());
#endif
    return 0;
}

// A process moves with all its threads. A thread can move alone too (version 1, threaded cgroups): the leader
// speaks for its process, as it does in /proc/PID/cgroup; others do not.
static __always_inline int on_attach(u32 pid, u32 hierarchy, u64 cgroup_id)
{
    u32 slot = slot_of(pid);
    struct task *self = task_of(slot);
    if (hierarchy == CGROUP_HIERARCHY && slot && self && self->tgid == pid)
        move(self, cgroup_id);
    return 0;
}

#if CGROUP_VERSION
// The kernel makes cgroups one at a time (cgroup_mutex): nobody else writes here meanwhile.
static __always_inline int on_cgroup(u32 hierarchy, u64 cgroup_id, const char *path)
{
    u32 tally = CGROUPS_MADE;
    u64 *made = tallies.lookup(&tally);
    if (!made || hierarchy != CGROUP_HIERARCHY)
        return 0;
    u32 place = *made % CGROUP_PATHS;
    struct cgroup_path *entry = cgroup_paths.lookup(&place);
    if (!entry)
        return 0;
    *(volatile u64 *)&entry->number = 0;
    entry->id = cgroup_id;
    bpf_probe_read_kernel_str(entry->path, CGROUP_PATH_BYTES, path);
    *(volatile u64 *)&entry->number = *made + 1;
    *(volatile u64 *)made = *made + 1;
    return 0;
}
#endif

static __always_inline void plant(struct order *given)
{
    struct task *self = task_of(given->slot);
    if (!self)
        return;
    self->tgid = given->pid;
    self->ppid = given->ppid;
    self->start_ns = given->start_ns;
    self->exit_ns = given->exited ? bpf_ktime_get_ns() : 0;
    self->cgroup_id = 0;
    __builtin_memcpy(self->comm, given->comm, COMM_BYTES);
    self->state = given->is_thread ? TASK_LIVE | TASK_THREAD : TASK_LIVE;
    mark_used(given->slot);
    set_slot(given->pid, given->slot);
}

static __always_inline int on_order(void)
{
    u32 only = 0;
    struct order *given = order.lookup(&only);
    struct answer *answered = answer.lookup(&only);
    if (!given || !answered)
        return 0;
    u32 slot = given->slot, has = slot_of(given->pid);
    struct task *owner = task_of(slot);
    if (!owner)
        return 0;
    if (given->kind == PLANT && !has)
        plant(given);
    if (given->kind == MAP && !has && owner->state & TASK_LIVE && owner->tgid == given->ppid)
        set_slot(given->pid, slot);
    // The rest is about the process that has been planted, as long as that is whom the slot belongs to.
    if (has == slot && owner->tgid == given->pid && owner->state & TASK_LIVE) {
        if (given->kind == EXITED && !owner->exit_ns)
            owner->exit_ns = bpf_ktime_get_ns();
        if (given->kind == CGROUP && !owner->cgroup_id)
            move(owner, given->cgroup_id);
        if (given->kind == GONE)
            give_back(slot, owner);
    }
    answered->slot = slot_of(given->pid);
    answered->number = given->number;
    return 0;
}

static __always_inline int on_rename(u32 pid, const char *comm)
{
    u64 loader = word(LOADER);
    if (loader && current_tid() == loader)
        return on_order();
    u32 slot = slot_of(pid);
    struct task *self = task_of(slot);
    if (!slot || !self || self->tgid != pid)
        return 0;
    // What exec calls itself may be longer than a name can be; the kernel cuts it as this does.
    bpf_probe_read_kernel_str(self->comm, COMM_BYTES, comm);
    __sync_fetch_and_add(&self->renames, 1);
    return 0;
}

static __always_inline int on_exit(void)
{
    u32 tid = current_tid();
    u32 slot = slot_of(tid);
    struct task *self = task_of(slot);
    if (slot && self && self->tgid == tid)
        self->exit_ns = bpf_ktime_get_ns();
    return 0;
}

// The kernel frees a leader after all its threads; a thread without a slot of its own finds one whose tgid is
// another.
static __always_inline int on_free(u32 pid)
{
    u32 slot = slot_of(pid);
    struct task *self = task_of(slot);
    if (slot && self && self->tgid == pid && self->state & TASK_LIVE && self->exit_ns)
        give_back(slot, self);
    return 0;
}

// Calls, bytes and errors of TCP and UDP sockets, connections and retransmits, by process.
//
// What a call moved is known at its end only: a short send returns less than it was asked for. So sends and receipts
// are seen at their end, in both load modes.
#define ROW_COLUMNS 18
#include "counters.h"

enum column {
    ACCEPT_TCP, ACCEPT_UDP, CONNECT_V4, CONNECT_V6,
    TCP_SENT, TCP_SENT_BYTES, TCP_SENT_ERROR, TCP_RECEIVED, TCP_RECEIVED_BYTES, TCP_RECEIVED_ERROR,
    TCP_CLOSE, TCP_RETRANSMIT,
    UDP_SENT, UDP_SENT_BYTES, UDP_SENT_ERROR, UDP_RECEIVED, UDP_RECEIVED_BYTES, UDP_RECEIVED_ERROR
};

// Of each three columns of a direction, by distance from the calls.
#define BYTES 1
#define ERROR 2

// include/linux/socket.h, include/uapi/linux/in.h, include/net/tcp_states.h
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000
#define STATE_ESTABLISHED 1
#define STATE_SYN_SENT 2
#define STATE_SYN_RECV 3
#define STATE_CLOSE 7
#define STATE_LISTEN 10

// ---- whose a socket is: the process that last connected, accepted or sent on it
//
// Retransmits happen in whatever process a timer interrupts. A word holds 42 bits of the socket's address (the 6
// below are zero, those above are the same for all) and the 22 bits of a process id (PID_MAX_LIMIT of
// include/linux/threads.h). A place has two; a third socket that falls on it takes that of the older one: what is
// no longer there is nobody's, and never somebody else's. 16,384 places are 256 KB.
#define OWNER_BITS 14
#define TGID_BITS 22

struct owners {
    u64 newer;
    u64 older;
};

BPF_ARRAY(owners, struct owners, 1 << OWNER_BITS);

// A trampoline's pointer as a number: the verifier lets nobody calculate with the pointer itself.
static __always_inline u64 number_at(const u64 *argument)
{
    u64 number = 0;
    bpf_probe_read_kernel(&number, sizeof(number), argument);
    return number;
}

static __always_inline u64 tag_of(u64 sock)
{
    return sock >> 6 << TGID_BITS;
}

static __always_inline struct owners *owners_at(u64 sock)
{
    u32 place = (sock >> 6) * 0x9E3779B97F4A7C15 >> (64 - OWNER_BITS); // Fibonacci hashing: 2^64 / golden ratio
    return owners.lookup(&place);
}

static __always_inline void remember_owner(u64 sock)
{
    struct owners *two = owners_at(sock);
    u64 mine = tag_of(sock) | caller();
    if (!two || two->newer == mine)
        return;
    if (two->newer >> TGID_BITS != mine >> TGID_BITS)
        two->older = two->newer;
    two->newer = mine;
}

static __always_inline u32 slot_of_owner(u64 sock)
{
    struct owners *two = owners_at(sock);
    u64 tag = tag_of(sock), found = two ? two->newer : 0;
    if (two && found >> TGID_BITS << TGID_BITS != tag)
        found = two->older;
    return found >> TGID_BITS << TGID_BITS == tag ? slot_for(found & ((1 << TGID_BITS) - 1)) : 0;
}

// ---- fields of struct sock, by the offsets that the loader reads from BTF

#ifdef SOCK_COMMON_SKC_FAMILY
static __always_inline u16 family_of(u64 sock)
{
    u16 family = 0;
    bpf_probe_read_kernel(&family, sizeof(family), (const void *)(sock + SOCK_COMMON_SKC_FAMILY));
    return family;
}
#endif

#if defined(SOCK_COMMON_SKC_FAMILY) && defined(SOCK_SK_PROTOCOL)
// The protocol of an IPv4 or IPv6 socket, 0 of any other: numbers mean something else there. sk_protocol has 16 bits
// of its own since 5.6 (kernel commit bf9765145b85).
static __always_inline u32 protocol_of(u64 sock)
{
    u16 family = family_of(sock), protocol = 0;
    if (family != AF_INET && family != AF_INET6)
        return 0;
    bpf_probe_read_kernel(&protocol, sizeof(protocol), (const void *)(sock + SOCK_SK_PROTOCOL));
    return protocol;
}
#endif

// IPv4 in an IPv6 socket has addresses ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
static __always_inline int is_mapped(const u32 *address)
{
    return !address[0] && !address[1] && address[2] == 0xffff0000; // little-endian
}

#include "connections.h"

static __always_inline u32 version_of_address(const void *kernel_address)
{
    u32 address[4] = {};
    bpf_probe_read_kernel(address, sizeof(address), kernel_address);
    return is_mapped(address) ? 4 : 6;
}

#if defined(SOCK_COMMON_SKC_V6_DADDR) && defined(SOCK_SK_PROTOCOL)
// What a connecting TCP socket speaks, 4 or 6; 0 for another protocol.
static __always_inline u32 version_of(u64 sock)
{
    if (protocol_of(sock) != IPPROTO_TCP)
        return 0;
    return family_of(sock) == AF_INET ? 4 : version_of_address((const void *)(sock + SOCK_COMMON_SKC_V6_DADDR));
}
#endif

static __always_inline int connects(int old_state, int new_state)
{
    return old_state == STATE_CLOSE && new_state == STATE_SYN_SENT;
}

static __always_inline int is_accepted(int old_state, int new_state)
{
    return old_state == STATE_SYN_RECV && new_state == STATE_ESTABLISHED;
}

// ---- connections

static __always_inline int on_accept(u64 accepted)
{
    if (accepted) {
        remember_owner(accepted);
        count(ACCEPT_TCP, 1);
    }
    return 0;
}

// The peer's last packet of the handshake comes in an interrupt, before the server asks for the connection.
static __always_inline int on_inbound(u32 protocol)
{
    if (protocol == IPPROTO_TCP)
        count_at(0, ACCEPT_TCP, 1);
    return 0;
}

static __always_inline int on_connect_v4(u64 sock)
{
    remember_owner(sock);
    count(CONNECT_V4, 1);
    return 0;
}

// tcp_v6_connect calls tcp_v4_connect for an IPv4 address, which is counted there. struct sockaddr_in6 has its
// address after family, port and flow information.
static __always_inline int on_connect_v6(u64 sock, u64 sockaddr)
{
    if (version_of_address((const void *)(sockaddr + 8)) == 4)
        return 0;
    remember_owner(sock);
    count(CONNECT_V6, 1);
    return 0;
}

static __always_inline int on_syn_v4(u64 sock, u32 version)
{
    return version == 4 ? on_connect_v4(sock) : 0;
}

static __always_inline int on_syn_v6(u64 sock, u32 version)
{
    if (version == 6) {
        remember_owner(sock);
        count(CONNECT_V6, 1);
    }
    return 0;
}

static __always_inline int on_close(void)
{
    count(TCP_CLOSE, 1);
    return 0;
}

static __always_inline int on_destroy(u64 sock)
{
    count_at(slot_of_owner(sock), TCP_CLOSE, 1);
    return 0;
}

// ---- retransmits

static __always_inline int on_retransmit(u64 sock, long error)
{
    if (!error) {
        count_at(slot_of_owner(sock), TCP_RETRANSMIT, 1);
        connection_retransmit(sock);
    }
    return 0;
}

// The socket that a task, or the interrupt of it, is sending again for. An interrupt that does the same within
// leaves the task's own without a socket: nobody's, and counted.
BPF_HASH(resending, u32, u64, 1024);

static __always_inline int on_retransmit_enter(u64 sock)
{
    u32 tid = bpf_get_current_pid_tgid();
    resending.update(&tid, &sock);
    return 0;
}

static __always_inline int on_retransmit_exit(long error)
{
    u32 tid = bpf_get_current_pid_tgid();
    u64 *sock = resending.lookup(&tid);
    on_retransmit(sock ? *sock : 0, error);
    if (sock)
        resending.delete(&tid);
    return 0;
}

#if defined(__BPF_TRACE_TCP_RETRANSMIT_SKB_ARGS) && __BPF_TRACE_TCP_RETRANSMIT_SKB_ARGS > 3
#define RETRANSMIT_ERROR(args) (int)args[2] // the tracepoint has an error, which is then 0 in most cases
#else
#define RETRANSMIT_ERROR(args) 0            // it is there for what has gone out only
#endif

// ---- sends and receipts

// `calls` is the first of three columns; `result` is what the kernel returned.
static __always_inline int transferred(u32 calls, long result)
{
    struct row *row = row_of(caller());
    if (!row)
        return 0;
    add(row, calls, 1);
    if (result < 0)
        add(row, calls + ERROR, 1);
    else if (result)
        add(row, calls + BYTES, result);
    return 0;
}

// Data that is only looked at will be received once more, and a message of the error queue was never received.
static __always_inline long moved(u32 flags, long result)
{
    return result > 0 && flags & (MSG_PEEK | MSG_ERRQUEUE) ? 0 : result;
}

static __always_inline int is_looked_at(u32 flags)
{
    return !!(flags & (MSG_PEEK | MSG_ERRQUEUE));
}

// `nonblock` was taken from tcp_recvmsg, udp_recvmsg and udpv6_recvmsg in 5.19 (kernel commit ec095263a965), the
// pointer after the flags later.
#define FLAGS_INDEX (TCP_RECVMSG_ARGS == 6 ? 4 : 3)
#define FLAGS_REGISTER(args) (TCP_RECVMSG_ARGS == 6 ? PT_REGS_PARM5(args) : PT_REGS_PARM4(args))

static __always_inline int on_tcp_sent(u64 sock, long result)
{
    remember_owner(sock);
    connection_tcp(SENT, sock, result);
    return transferred(TCP_SENT, result);
}

static __always_inline int on_tcp_received(u64 sock, u32 flags, long result)
{
    if (!is_looked_at(flags))
        connection_tcp(RECEIVED, sock, result);
    return transferred(TCP_RECEIVED, moved(flags, result));
}

// splice has the struct socket that the sock belongs to.
static __always_inline u64 sock_of(u64 socket)
{
    u64 sock = 0;
#ifdef SOCKET_SK
    bpf_probe_read_kernel(&sock, sizeof(sock), (const void *)(socket + SOCKET_SK));
#endif
    return sock;
}

static __always_inline int on_tcp_spliced(u64 socket, long result)
{
    return on_tcp_received(sock_of(socket), 0, result);
}

static __always_inline int on_udp_sent(u64 sock, u64 message, long result)
{
    connection_udp(SENT, sock, IN_MESSAGE, message, result);
    return transferred(UDP_SENT, result);
}

// udpv6_sendmsg calls udp_sendmsg for an IPv4 address, and is counted itself.
static __always_inline int on_udp_v4_sent(u32 family, u64 sock, u64 message, long result)
{
    return family == AF_INET6 ? 0 : on_udp_sent(sock, message, result);
}

static __always_inline int on_udp_received(u64 sock, u64 message, u32 flags, long result)
{
    if (!is_looked_at(flags))
        connection_udp(RECEIVED, sock, IN_MESSAGE, message, result);
    return transferred(UDP_RECEIVED, moved(flags, result));
}

// What the tracepoints of all sockets see.
static __always_inline int on_sent_tcp(u64 sock, u32 protocol, long result)
{
    return protocol == IPPROTO_TCP ? on_tcp_sent(sock, result) : 0;
}

static __always_inline int on_sent_udp(u64 sock, u32 protocol, long result)
{
    if (protocol != IPPROTO_UDP)
        return 0;
    connection_udp(SENT, sock, AT_CALLER, 0, result);
    return transferred(UDP_SENT, result);
}

static __always_inline int on_received_tcp(u64 sock, u32 protocol, u32 flags, long result)
{
    return protocol == IPPROTO_TCP ? on_tcp_received(sock, flags, result) : 0;
}

static __always_inline int on_received_udp(u64 sock, u32 protocol, u32 flags, long result)
{
    if (protocol != IPPROTO_UDP)
        return 0;
    if (!is_looked_at(flags))
        connection_udp(RECEIVED, sock, NOWHERE, 0, result);
    return transferred(UDP_RECEIVED, moved(flags, result));
}

// A kretprobe knows the result only. What its kprobe has to tell it is noted by task: that a receipt moves nothing,
// or a send is part of another one; and, to tell connections apart, of which socket it is.
struct call {
    u64 sock;
    u64 message;
    u32 what;
};

BPF_HASH(noted, u32, struct call, 1024);
#define PART_OF_ANOTHER 1

// What was noted before belongs to a call whose end was missed.
static __always_inline int note(u32 what, u64 sock, u64 message)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct call call = {.sock = sock, .message = message, .what = what};
#ifdef HAS_CONNECTIONS
    noted.update(&tid, &call);
#else
    if (what)
        noted.update(&tid, &call);
    else if (noted.lookup(&tid))
        noted.delete(&tid);
#endif
    return 0;
}

static __always_inline void take_note(struct call *call)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct call *found = noted.lookup(&tid);
    if (!found)
        return;
    *call = *found;
    noted.delete(&tid);
}

static __always_inline int on_tcp_send_enter(u64 sock)
{
    remember_owner(sock);
    return note(0, sock, 0);
}

static __always_inline int on_tcp_send_exit(long result)
{
    struct call call = {};
    take_note(&call);
    connection_tcp(SENT, call.sock, result);
    return transferred(TCP_SENT, result);
}

static __always_inline int on_udp_send_enter(u64 sock, u64 message)
{
    return note(0, sock, message);
}

// What udpv6_sendmsg has noted stays for its own end.
static __always_inline int on_udp_v4_send_enter(u32 family, u64 sock, u64 message)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct call *outer = family == AF_INET6 ? noted.lookup(&tid) : 0;
    if (outer)
        outer->what = PART_OF_ANOTHER;
    else
        note(family == AF_INET6 ? PART_OF_ANOTHER : 0, sock, message);
    return 0;
}

static __always_inline int on_udp_v4_send_exit(long result)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct call *found = noted.lookup(&tid);
    struct call call = {};
    if (found && found->what == PART_OF_ANOTHER) {
        found->what = 0;
        return 0;
    }
    take_note(&call);
    return on_udp_sent(call.sock, call.message, result);
}

static __always_inline int on_udp_send_exit(long result)
{
    struct call call = {};
    take_note(&call);
    return on_udp_sent(call.sock, call.message, result);
}

static __always_inline int on_receive_enter(u32 flags, u64 sock, u64 message)
{
    return note(flags & (MSG_PEEK | MSG_ERRQUEUE), sock, message);
}

static __always_inline int on_tcp_splice_enter(u64 socket)
{
    return note(0, sock_of(socket), 0);
}

static __always_inline int on_tcp_receive_exit(long result)
{
    struct call call = {};
    take_note(&call);
    return on_tcp_received(call.sock, call.what, result);
}

static __always_inline int on_udp_receive_exit(long result)
{
    struct call call = {};
    take_note(&call);
    return on_udp_received(call.sock, call.message, call.what, result);
}

// ---- which ports are listened on (connections.h)

static __always_inline int on_state(u64 sock, int old_state, int new_state)
{
#ifdef HAS_CONNECTIONS
    u16 port = 0;
    bpf_probe_read_kernel(&port, sizeof(port), (const void *)(sock + SOCK_COMMON_SKC_NUM));
    if (new_state == STATE_LISTEN || is_accepted(old_state, new_state))
        note_listening(port, 1);
    else if (old_state == STATE_SYN_SENT && new_state == STATE_ESTABLISHED)
        note_listening(port, 0);
#endif
    return 0;
}

static __always_inline int on_new_state(u64 sock, int new_state)
{
    u8 old_state = 0;
#ifdef HAS_CONNECTIONS
    bpf_probe_read_kernel(&old_state, sizeof(old_state), (const void *)(sock + SOCK_COMMON_SKC_STATE));
#endif
    return on_state(sock, old_state, new_state);
}

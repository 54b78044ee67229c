// Connections: what was sent to and received from each remote service, and through each port that is listened on.
//
//   services[service]  -> its row                       a hash, so that two CPUs cannot give a service two rows
//   connections[row]   -> counters, only ever added to, and whose they are
//   turns              -> all rows, those that have not been given for longest first
//
// An outbound service is a remote address and port; an inbound one is a local port, with CONNECTIONS_BY_ADDRESS for
// each remote address apart. A row whose counts were taken and which has been quiet for long is marked idle by user
// space; a new service takes the first free or idle row. When a few in turn are neither, its counts go to the row of
// all others of its direction, and so do those of an unknown address: nothing is lost.
//
// A row can be given away just while another CPU counts in it for the last owner: that one count is the next owner's.
//
// The loader passes CONNECTIONS, how many rows there are (a multiple of ROWS_PER_PAGE; 0 = none of this).
#pragma once
#include "caller.h"
#include "slots.h"

#if CONNECTIONS && defined(SOCK_COMMON_SKC_V6_DADDR) && defined(SOCK_COMMON_SKC_DPORT)
#define HAS_CONNECTIONS 1
#endif

enum connection_column { SENT, SENT_BYTES, RECEIVED, RECEIVED_BYTES, RETRANSMITTED, CONNECTION_COLUMNS };

// Of service.kind.
#define OUTBOUND 0
#define INBOUND 1
#define VERSION_6 2

// Address in network order, of IPv4 in the first word; port in ours.
struct service {
    u32 address[4];
    u16 port;
    u8 protocol;
    u8 kind;
};

// An address as programs give it: struct sockaddr_in has it in word 0, sockaddr_in6 in words 1 to 4. family 0 = none.
struct peer {
    u16 family;
    u16 port;
    u32 word[5];
};

// Where the other end of a datagram is told, besides in a connected socket.
#define NOWHERE 0
#define IN_MESSAGE 1
#define AT_CALLER 2

#ifdef HAS_CONNECTIONS

// 64 bytes; see workers/connections.py.
struct connection {
    u64 column[CONNECTION_COLUMNS];
    struct service service;
    u16 tenure; // counts the owners
    u8 live;
    u8 idle;    // set by user space
};

struct connection_page {
    struct connection row[ROWS_PER_PAGE];
};

// Rows 0 and 1 are those of all others.
BPF_F_TABLE("array", u32, struct connection_page, connections, CONNECTIONS / ROWS_PER_PAGE, MAP_FLAGS);
BPF_HASH(services, struct service, u32, CONNECTIONS);
BPF_QUEUE(turns, u32, CONNECTIONS);

#define TURNS 4

static __always_inline struct connection *connection_at(u32 row)
{
    u32 number = row / ROWS_PER_PAGE;
    struct connection_page *page = connections.lookup(&number);
    return page ? &page->row[row % ROWS_PER_PAGE] : 0;
}

// Gives the row to the service, unless another CPU has just given it one: the row that it then has.
static __always_inline u32 settle(struct service *service, struct connection *row, u32 number)
{
    struct service former = row->service;
    if (row->live)
        services.delete(&former);
    row->live = 0;
    row->idle = 0;
    row->service = *service;
    row->tenure++;
    if (!services.insert(service, &number)) {
        row->live = 1;
        return number;
    }
    u32 *given = services.lookup(service);
    return given ? *given : service->kind & INBOUND;
}

static __always_inline u32 new_row(struct service *service)
{
    u32 number;
    for (int turn = 0; turn < TURNS; turn++) {
        if (turns.pop(&number))
            break;
        struct connection *row = connection_at(number);
        u32 given = service->kind & INBOUND;
        int fits = row && (!row->live || row->idle);
        if (fits)
            given = settle(service, row, number);
        turns.push(&number, 0);
        if (fits)
            return given;
    }
    return service->kind & INBOUND;
}

static __always_inline u32 row_of_service(struct service *service)
{
    u32 *row = services.lookup(service);
    return row ? *row : new_row(service);
}

static __always_inline void add_to(u32 row, u32 column, u64 amount)
{
    struct connection *connection = connection_at(row);
    if (!connection)
        return;
    __sync_fetch_and_add(&connection->column[column], amount);
    if (connection->idle)
        connection->idle = 0;
}

// `calls` is SENT or RECEIVED; its bytes stand behind it.
static __always_inline void add_call(u32 row, u32 calls, u64 bytes)
{
    add_to(row, calls, 1);
    if (bytes)
        add_to(row, calls + 1, bytes);
}

// ---- TCP ports that are listened on, in whatever network namespace
//
// Known from /proc/net/tcp at the start, then from sockets that begin to listen and connections that are accepted.
// A port from which a connection was made is none, whoever has listened on it before.
struct port_page {
    u8 listens[1024];
};

BPF_F_TABLE("array", u32, struct port_page, listening, 64, MAP_FLAGS);

static __always_inline u8 *listens(u16 port)
{
    u32 number = port / 1024;
    struct port_page *page = listening.lookup(&number);
    return page ? &page->listens[port % 1024] : 0;
}

static __always_inline void note_listening(u16 port, u8 now)
{
    u8 *known = listens(port);
    if (known && port && *known != now)
        *known = now;
}

// ---- the service that a socket is for

#define SERVICE_HEAD_BYTES 24

// The beginning of struct sock, which has addresses, ports and family since before 4.0.
struct sock_head {
    u8 byte[SERVICE_HEAD_BYTES];
};

#if SOCK_COMMON_SKC_DADDR + 4 > SERVICE_HEAD_BYTES || SOCK_COMMON_SKC_DPORT + 2 > SERVICE_HEAD_BYTES || \
    SOCK_COMMON_SKC_NUM + 2 > SERVICE_HEAD_BYTES || SOCK_COMMON_SKC_FAMILY + 2 > SERVICE_HEAD_BYTES
#error "struct sock begins otherwise here"
#endif

#define HEAD(head, type, offset) (*(type *)((head)->byte + (offset)))

static __always_inline void set_address(struct service *service, u16 family, const u32 *address)
{
    if (family == AF_INET) {
        service->address[0] = address[0];
    } else if (is_mapped(address)) {
        service->address[0] = address[3];
    } else {
        __builtin_memcpy(service->address, address, sizeof(service->address));
        service->kind |= VERSION_6;
    }
}

// The other end of a connected socket; its family stays 0 for any other.
static __always_inline void peer_of(u64 sock, const struct sock_head *head, struct peer *peer)
{
    peer->port = HEAD(head, u16, SOCK_COMMON_SKC_DPORT);
    if (!peer->port)
        return;
    peer->family = HEAD(head, u16, SOCK_COMMON_SKC_FAMILY);
    if (peer->family == AF_INET)
        peer->word[0] = HEAD(head, u32, SOCK_COMMON_SKC_DADDR);
    else
        bpf_probe_read_kernel(&peer->word[1], 16, (const void *)(sock + SOCK_COMMON_SKC_V6_DADDR));
}

// The row of a service: of an inbound one by its local port.
static __always_inline u32 row_for(u8 protocol, int inbound, u16 local_port, const struct peer *peer)
{
    struct service service = {.protocol = protocol, .kind = inbound ? INBOUND : OUTBOUND};
    service.port = inbound ? local_port : __builtin_bswap16(peer->port);
    if (!inbound || CONNECTIONS_BY_ADDRESS)
        set_address(&service, peer->family, peer->family == AF_INET ? peer->word : peer->word + 1);
    return row_of_service(&service);
}

static __always_inline void read_head(u64 sock, struct sock_head *head)
{
    bpf_probe_read_kernel(head, sizeof(*head), (const void *)sock);
}

// A connection that has ended before all of it was read has lost its port in the head.
static __always_inline u16 local_port(u64 sock, const struct sock_head *head)
{
    u16 port = HEAD(head, u16, SOCK_COMMON_SKC_NUM);
#ifdef INET_SOCK_INET_SPORT
    if (!port) {
        bpf_probe_read_kernel(&port, sizeof(port), (const void *)(sock + INET_SOCK_INET_SPORT));
        port = __builtin_bswap16(port);
    }
#endif
    return port;
}

static __always_inline u32 row_of_tcp(u64 sock)
{
    struct sock_head head = {};
    struct peer peer = {};
    if (sock)
        read_head(sock, &head);
    peer_of(sock, &head, &peer);
    if (!peer.family)
        return OUTBOUND;
    u16 port = local_port(sock, &head);
    u8 *inbound = listens(port);
    return row_for(IPPROTO_TCP, inbound && *inbound, port, &peer);
}

// ---- UDP
//
// A socket that is not connected is a server's if its port was chosen by bind(2); a client's says at each send where
// to, and mostly not from where it receives: from where it sent to last. So many sockets are remembered, those that
// sent last; what others receive is with all others.
BPF_TABLE("lru_hash", u64, u32, last_rows, 4096);

#define SOCK_BINDPORT_LOCK 8 // include/net/sock.h

static __always_inline int is_bound(u64 sock)
{
    u8 locks = 0;
#if defined(SOCK_SK_USERLOCKS) && defined(SOCK_SK_USERLOCKS_SHIFT)
    bpf_probe_read_kernel(&locks, sizeof(locks), (const void *)(sock + SOCK_SK_USERLOCKS));
    locks >>= SOCK_SK_USERLOCKS_SHIFT;
#endif
    return locks & SOCK_BINDPORT_LOCK;
}

static __always_inline u32 last_row_of(u64 sock)
{
    u32 *row = last_rows.lookup(&sock);
    return row ? *row : OUTBOUND;
}

static __always_inline void remember_row(u64 sock, u32 row)
{
    u32 *last = last_rows.lookup(&sock);
    if (!last || *last != row)
        last_rows.update(&sock, &row);
}

// A struct sockaddr in the kernel's memory: that of the call's struct msghdr, which may name somebody.
static __always_inline void peer_of_message(u64 message, struct peer *peer)
{
#ifdef MSGHDR_MSG_NAME
    u64 name = 0;
    if (message)
        bpf_probe_read_kernel(&name, sizeof(name), (const void *)(message + MSGHDR_MSG_NAME));
    if (name)
        bpf_probe_read_kernel(peer, sizeof(*peer), (const void *)name);
#endif
}

// The same where only the end of the system call is seen: what its caller gave to sendto(2) or sendmsg(2).
static __always_inline void peer_of_caller(struct peer *peer)
{
    u64 call = bpf_task_pt_regs(bpf_get_current_task_btf());
    u64 number = number_of(call), name = 0;
    if (!is_native(call))
        return;
    if (number == __NR_sendto)
        name = argument(call, 4);
    else if (number == __NR_sendmsg)
        bpf_probe_read_user(&name, sizeof(name), (const void *)argument(call, 1)); // msg_name comes first
    if (name)
        bpf_probe_read_user(peer, 8, (const void *)name); // all of it that an IPv4 address has
    if (peer->family == AF_INET6)
        bpf_probe_read_user(peer, sizeof(*peer), (const void *)name);
}

static __always_inline u32 row_of_udp(u64 sock, const int told, u64 message)
{
    struct sock_head head = {};
    struct peer peer = {};
    if (sock)
        read_head(sock, &head);
    int connected = !!HEAD(&head, u16, SOCK_COMMON_SKC_DPORT);
    int inbound = sock && !connected && is_bound(sock);
    if (!inbound || CONNECTIONS_BY_ADDRESS) {
        if (told == IN_MESSAGE)
            peer_of_message(message, &peer);
        else if (told == AT_CALLER && !connected)
            peer_of_caller(&peer);
        if (peer.family != AF_INET && peer.family != AF_INET6) {
            peer.family = 0;
            peer_of(sock, &head, &peer);
        }
    }
    u16 port = HEAD(&head, u16, SOCK_COMMON_SKC_NUM);
    if (inbound)
        return peer.family || !CONNECTIONS_BY_ADDRESS ? row_for(IPPROTO_UDP, 1, port, &peer) : INBOUND;
    if (!peer.family)
        return last_row_of(sock);
    u32 row = row_for(IPPROTO_UDP, 0, port, &peer);
    if (!connected)
        remember_row(sock, row);
    return row;
}

#endif // HAS_CONNECTIONS

static __always_inline int is_counted(u8 protocol, long result)
{
    return result > 0 || (!result && protocol == IPPROTO_UDP); // nothing of TCP is its end
}

static __always_inline void connection_tcp(u32 calls, u64 sock, long result)
{
#ifdef HAS_CONNECTIONS
    if (is_counted(IPPROTO_TCP, result))
        add_call(row_of_tcp(sock), calls, result);
#endif
}

static __always_inline void connection_udp(u32 calls, u64 sock, const int told, u64 message, long result)
{
#ifdef HAS_CONNECTIONS
    if (is_counted(IPPROTO_UDP, result))
        add_call(row_of_udp(sock, told, message), calls, result);
#endif
}

static __always_inline void connection_retransmit(u64 sock)
{
#ifdef HAS_CONNECTIONS
    add_to(row_of_tcp(sock), RETRANSMITTED, 1);
#endif
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Finds out by itself whether what its disk reads into RAM stays there.  It keeps a few large
 * requests in flight, into ever new places of a buffer, whose contents are spoilt before; a request
 * that is done is checked, and all that was read so far is checked again, all the time.  A page
 * that a migration copied before the disk wrote it, and never again, shows.
 *
 * The disk is a virtio-blk device on the PCI bus, driven through its legacy ports (Virtual I/O
 * Device specification 1.1, 4.1.4.8 and 5.2) without interrupts; of several, the last.  Each of its
 * sectors must begin with its number and end with that number times SEAL (contrib/lab/slowdisk.py
 * makes such a disk).  The first vCPU does it all; others stand still.
 *
 * Arguments: set (MiB of the buffer, default 16), request (KiB of one, default 256), depth
 * (requests in flight, default 4, at most 8), every (ms between lines, default 500).
 */
#include "guest.h"

#define SECTOR_BYTES 512u
#define SECTOR_WORDS (SECTOR_BYTES / 4)
#define SEAL         0x9e3779b1u
#define DEPTH_MAX    8u
#define PLACES_MAX   4096u
#define LINES_MAX    20u  /* the count goes on */
#define CHECK_BATCH  256u /* sectors that are checked again at a time */

/* PCI configuration, mechanism 1. */
#define PCI_ADDRESS  0xcf8
#define PCI_DATA     0xcfc
#define PCI_ENABLE   0x80000000u
#define PCI_COMMAND  0x04
#define PCI_BAR0     0x10
#define PCI_SLOTS    32u
#define FREE_PORTS   0xc000u /* of nobody else on a PC */
#define PCI_IO       1u
#define PCI_MASTER   4u
#define VIRTIO_BLOCK 0x10011af4u /* device and vendor, as a transitional device has them */

/* Registers behind BAR 0. */
#define REG_FEATURES     4
#define REG_QUEUE_PFN    8
#define REG_QUEUE_SIZE   12
#define REG_QUEUE_SELECT 14
#define REG_NOTIFY       16
#define REG_STATUS       18
#define REG_CAPACITY     20 /* sectors */

#define STATUS_DRIVER    3u /* acknowledged, and there is a driver */
#define STATUS_DRIVER_OK 7u

#define DESC_NEXT        1u
#define DESC_WRITE       2u
#define NO_INTERRUPT     1u
#define REQUEST_PARTS    3u /* header, data, status */
#define QUEUE_MAX        1024u
#define QUEUE_BYTES_MAX  ((QUEUE_MAX * 26u + 12u + 2u * PAGE_BYTES) & ~(PAGE_BYTES - 1u))

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct available {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
};

struct used {
    uint16_t flags;
    uint16_t index;
    struct {
        uint32_t id;
        uint32_t length;
    } ring[];
};

struct header {
    uint32_t type; /* 0: read */
    uint32_t reserved;
    uint64_t sector;
};

/* One of those in flight; descriptors 3 * i to 3 * i + 2 are its own. */
struct request {
    struct header header;
    volatile uint8_t status;
    uint32_t place;
};

static uint8_t queue_memory[QUEUE_BYTES_MAX] __attribute__((aligned(PAGE_BYTES)));
static struct request requests[DEPTH_MAX];

/* The buffer's places, one request large; which sector each begins with once it was read. */
static uint32_t first_sector[PLACES_MAX];
static bool was_read[PLACES_MAX];

struct device {
    uint16_t port;
    uint32_t sectors;
    uint16_t queue_size;
    struct descriptor *table;
    volatile struct available *available;
    volatile struct used *used;
    uint16_t seen; /* of what it has used */
};

struct reader {
    struct device device;
    uint32_t depth;
    uint32_t places;
    uint32_t each;     /* sectors of a request */
    uint32_t requests; /* that the disk has room for */
    uint32_t next;     /* request of the disk that is read next */
    uint32_t place;    /* that it is read into */
    uint32_t at;       /* sector of the buffer that is checked again next */
    uint32_t reads;
    uint32_t checked;
    uint32_t bad;
    uint64_t next_line;
};

static void give_up(const char *why)
{
    print("direct: %s\n", why);
    shut_down();
}

/* ---- the device ---- */

static void pci_select(uint32_t slot, uint32_t offset)
{
    outl(PCI_ADDRESS, PCI_ENABLE | slot << 11 | offset);
}

static uint32_t pci_read(uint32_t slot, uint32_t offset)
{
    pci_select(slot, offset);
    return inl(PCI_DATA);
}

static void pci_write(uint32_t slot, uint32_t offset, uint32_t value)
{
    pci_select(slot, offset);
    outl(PCI_DATA, value);
}

/* Firmware that has not placed the device's ports leaves that to us. */
static uint16_t find_port(void)
{
    for (uint32_t slot = PCI_SLOTS; slot-- > 0;) {
        if (pci_read(slot, 0) == VIRTIO_BLOCK) {
            if (!(pci_read(slot, PCI_BAR0) & ~3u)) {
                pci_write(slot, PCI_BAR0, FREE_PORTS);
            }
            uint32_t command = pci_read(slot, PCI_COMMAND) & 0xffffu;
            pci_write(slot, PCI_COMMAND, command | PCI_IO | PCI_MASTER);
            return (uint16_t)(pci_read(slot, PCI_BAR0) & ~3u);
        }
    }
    return 0;
}

/* Where the parts of the queue lie follows from its size, which is the device's. */
static void lay_out(struct device *device)
{
    uint32_t size = device->queue_size;
    uint32_t available = size * sizeof(struct descriptor);
    uint32_t used = (available + 6 + 2 * size + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);

    device->table = (struct descriptor *)queue_memory;
    device->available = (volatile struct available *)(queue_memory + available);
    device->used = (volatile struct used *)(queue_memory + used);
    device->available->flags = NO_INTERRUPT;
}

static void start_device(struct device *device)
{
    device->port = find_port();
    if (device->port == 0) {
        give_up("there is no virtio-blk device");
    }
    outb(device->port + REG_STATUS, 0);
    outb(device->port + REG_STATUS, STATUS_DRIVER);
    outl(device->port + REG_FEATURES, 0);
    outw(device->port + REG_QUEUE_SELECT, 0);
    device->queue_size = inw(device->port + REG_QUEUE_SIZE);
    if (device->queue_size < DEPTH_MAX * REQUEST_PARTS || device->queue_size > QUEUE_MAX) {
        give_up("the device's queue has a size that is not known here");
    }
    lay_out(device);
    outl(device->port + REG_QUEUE_PFN, (uint32_t)queue_memory / PAGE_BYTES);
    outb(device->port + REG_STATUS, STATUS_DRIVER_OK);
    device->sectors = inl(device->port + REG_CAPACITY);
}

static void submit(struct device *device, uint32_t index, void *to, uint32_t bytes)
{
    struct request *request = &requests[index];
    uint16_t first = (uint16_t)(index * REQUEST_PARTS);
    struct descriptor *parts = &device->table[first];
    uint16_t at = device->available->index;

    request->status = 0xff;
    parts[0] = (struct descriptor){(uint32_t)&request->header, sizeof(request->header), DESC_NEXT,
                                   (uint16_t)(first + 1)};
    parts[1] =
        (struct descriptor){(uint32_t)to, bytes, DESC_NEXT | DESC_WRITE, (uint16_t)(first + 2)};
    parts[2] = (struct descriptor){(uint32_t)&request->status, 1, DESC_WRITE, 0};
    device->available->ring[at & (device->queue_size - 1u)] = first;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    device->available->index = (uint16_t)(at + 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    outw(device->port + REG_NOTIFY, 0);
}

/* The request that is done; DEPTH_MAX: none. */
static uint32_t take_done(struct device *device)
{
    if (device->used->index == device->seen) {
        return DEPTH_MAX;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t id = device->used->ring[device->seen & (device->queue_size - 1u)].id;
    device->seen++;
    return id / REQUEST_PARTS;
}

/* ---- what is read ---- */

static uint32_t *place_words(const struct reader *reader, uint32_t place)
{
    return (uint32_t *)(GUEST_HEAP_GPA + place * reader->each * SECTOR_BYTES);
}

static void complain(struct reader *reader, uint32_t sector, const uint32_t *words,
                     const char *when)
{
    reader->bad++;
    report(0)->bad = reader->bad;
    if (reader->bad <= LINES_MAX) {
        print("BAD sector %u at %x %s: begins %x ends %x\n", sector, (uint32_t)words, when,
              words[0], words[SECTOR_WORDS - 1]);
    }
}

static void check(struct reader *reader, uint32_t place, uint32_t from, uint32_t count,
                  const char *when)
{
    const volatile uint32_t *words = place_words(reader, place) + from * SECTOR_WORDS;
    uint32_t sector = first_sector[place] + from;

    for (; count > 0; count--, sector++, words += SECTOR_WORDS) {
        if (words[0] != sector || words[SECTOR_WORDS - 1] != sector * SEAL) {
            complain(reader, sector, (const uint32_t *)words, when);
        }
    }
}

/* No sector of the place is what it was or will be. */
static void spoil(const struct reader *reader, uint32_t place)
{
    uint32_t at = (uint32_t)place_words(reader, place);

    dirty_places(at, SECTOR_BYTES, reader->each);
    dirty_places(at + SECTOR_BYTES - 4, SECTOR_BYTES, reader->each);
}

static void read_next(struct reader *reader, uint32_t index)
{
    struct request *request = &requests[index];

    request->place = reader->place;
    request->header = (struct header){.sector = (uint64_t)reader->next * reader->each};
    was_read[request->place] = false;
    first_sector[request->place] = reader->next * reader->each;
    spoil(reader, request->place);
    submit(&reader->device, index, place_words(reader, request->place),
           reader->each * SECTOR_BYTES);
    reader->next = reader->next + 1 == reader->requests ? 0 : reader->next + 1;
    reader->place = reader->place + 1 == reader->places ? 0 : reader->place + 1;
}

static void finish(struct reader *reader, const struct request *request)
{
    if (request->status != 0) {
        print("BAD request: sector %u: the device says %u\n", first_sector[request->place],
              request->status);
        report(0)->bad = ++reader->bad;
        return;
    }
    check(reader, request->place, 0, reader->each, "when read");
    was_read[request->place] = true;
    report(0)->progress = ++reader->reads;
}

/* A batch of what has been read is still what it was. */
static void check_again(struct reader *reader)
{
    uint32_t place = reader->at / reader->each;
    uint32_t from = reader->at % reader->each;
    uint32_t left = reader->each - from;
    uint32_t count = left < CHECK_BATCH ? left : CHECK_BATCH;

    if (was_read[place]) {
        check(reader, place, from, count, "when read again");
        reader->checked += count;
    } else {
        count = left;
    }
    reader->at += count;
    if (reader->at == reader->places * reader->each) {
        reader->at = 0;
    }
}

static void set_up(struct reader *reader)
{
    uint32_t request_kib = arg("request", 256);
    struct range range = working_set(arg("set", 16), 0, 1);

    reader->depth = arg("depth", 4);
    if (request_kib == 0 || request_kib > 1024 || reader->depth == 0 || reader->depth > DEPTH_MAX) {
        give_up("request is not within 1 and 1024, or depth not within 1 and 8");
    }
    start_device(&reader->device);
    reader->each = request_kib * 2;
    reader->places = range.pages * 4 / request_kib;
    reader->requests = reader->device.sectors / reader->each;
    if (reader->places <= reader->depth || reader->places > PLACES_MAX ||
        reader->requests <= reader->places) {
        give_up("the buffer has no room for the requests, or more than the disk");
    }
    /* The same place never gets the same sectors twice in a row. */
    if (reader->requests % reader->places == 0) {
        reader->requests--;
    }
}

void guest_main(uint32_t cpu)
{
    struct reader reader = {.places = 0};
    uint32_t every_us = arg("every", 500) * 1000;
    uint32_t done;

    while (cpu != 0) {
        __asm__ volatile("cli; hlt");
    }
    set_up(&reader);
    print("direct: start places %u sectors %u\n", reader.places, reader.device.sectors);
    for (uint32_t index = 0; index < reader.depth; index++) {
        read_next(&reader, index);
    }
    for (;;) {
        while ((done = take_done(&reader.device)) != DEPTH_MAX) {
            finish(&reader, &requests[done]);
            read_next(&reader, done);
        }
        check_again(&reader);
        if (is_due(&reader.next_line, every_us)) {
            print("direct: reads %u checked %u bad %u\n", reader.reads, reader.checked, reader.bad);
        }
    }
}

"""The page that ``thinmeta --help`` prints."""

HELP = """\
Usage: thinmeta COMMAND [OPTION]... WORD...

Looks into dm-thin pools (LVM thin pools, for example), copies their volumes and changes
them, without the kernel's help. The commands that read also take a pool that is in use,
by its name.

Commands that only read
  ls       list the volumes of a pool
  check    look for damage
  dump     write down everything the metadata says, as XML or JSON
  delta    show where two volumes differ, for example a volume and its snapshot
  rmap     show what lies where in the pool's data
  stat     tell how long runs are, what is shared, how full trees are, what is free
  explore  walk through the metadata in a terminal, block by block
  extract  copy a volume's content out of a pool
  size     tell how large a pool's metadata have to be

Copies of volumes, and what has changed in them
  send       write a volume, or what has changed since a snapshot, as a stream
  receive    make a file, a device or a volume hold what a stream says
  replicate  bring a copy of a volume in use up to date, here or on another host
  stream     look into a stream, or check it
  bookmark   save the mappings of a snapshot, to know later what has changed since
  backup     keep generations of volumes in a folder or an object store
  migrate    copy a volume to another pool, a device or a file, and prove it

Metadata made anew, in another place than the old ones
  restore  make a pool's metadata from XML
  repair   make them from what can be read of damaged ones
  shrink   make a pool fit on a shorter data device, moving what lies past its end
  merge    give an origin the content of its snapshot; an external one, too
  pack     put metadata into a small file, to keep or to send
  unpack   make metadata of that again

Data that nobody uses
  trim     give up what is free in a pool's data: holes in an image, discards on a device

Pools in use
  live     status, snapshots of volumes, and the metadata snapshot

Commands that change a pool, each in one transaction: all of it happens, or nothing
  create              make a thin device, or a new pool
  snapshot            make a thin device with what another one has
  delete              remove a thin device
  discard             make a part of a thin device a hole again
  grow                give a pool more data blocks or metadata blocks
  set-transaction-id  set the number that LVM compares with its own
  reserve-snapshot    make the pool hold a metadata snapshot (see below)
  release-snapshot    let go of it
  edit                make many changes at once, from a file

Under the names of others
  thin_check thin_delta thin_dump thin_ls thin_metadata_pack thin_metadata_size
  thin_metadata_unpack thin_migrate thin_repair thin_restore thin_rmap thin_shrink
  thin_trim
                 do what these programs of thin-provisioning-tools do, whose options they
                 take; LVM may call them (docs/lvm.md)
  install-links  make links of these names

'thinmeta COMMAND --help' explains one of them.

Options of every command
  --json                    print JSON, sizes in bytes and in blocks
  -h, --help                print help
  -V, --version             print the version (without a command)

Options of those that read
  -m, --metadata-snapshot   read the pool's metadata snapshot (see below);
      -mBLOCK, --metadata-snapshot=BLOCK takes the one at that metadata block

Options of those that change
  -n, --dry-run             say what would change, and change nothing

In two minutes
  A thin pool keeps many volumes in one place. It consists of two devices: the
  metadata (META below; LVM hides it as POOL_tmeta) says which piece of which volume
  lies where, and the data (LVM: POOL_tdata) holds the pieces.

  thin device   a volume of the pool, known by a number, its device id. A snapshot
                is a thin device as well.
  block         a piece of a volume or of the data device, all of one size in a
                pool, 64 KiB to 1 GiB. Metadata blocks always have 4 KiB.
  mapping       "block 7 of device 2 lies in block 90 of the data device". What was
                never written has no mapping: a hole, which reads as zeros.
  shared        a block that several devices map, until one of them writes to it.
  transaction   a number that the tool in charge of the pool (LVM) counts up.
  time          the pool's own clock: it ticks at each snapshot.

  A pool in use changes while it is read, so META is refused as long as somebody has
  it. Give the pool's name in place of META: then the kernel freezes a copy of the
  metadata, the metadata snapshot, and releases it when the command is done:
      thinmeta ls vg/pool
  -m reads a metadata snapshot that is held already; 'thinmeta live reserve' holds one.
  Only 'thinmeta live' changes a pool in use. LVM has a book of its own about its pools:
  docs/lvm.md tells what to mind before one is changed.

Exit status
    0  all is well
    1  something is wrong with the data: damage, not a pool, no such device or snapshot,
       a device that is there already, a line of a script
    2  the command line is wrong
    3  it cannot be done: no such file, no permission, in use, no space, an I/O error
  130  interrupted (Ctrl-C)
  141  the reader of the output went away

Examples
  thinmeta ls pool_tmeta.img
  thinmeta check vg/pool
  thinmeta delta pool_tmeta.img 1 2 --json
  thinmeta delete --dry-run pool_tmeta.img 2
"""

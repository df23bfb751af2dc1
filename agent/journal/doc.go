// Package journal keeps a backup component's updates on disk until their set is applied.
//
// It is a directory of append-only segment files. A record is an opaque payload with the (group, set) it belongs to;
// it is freed when its set is, and a segment whose records are all freed is deleted or used again. Records are never
// moved, so a Ref is good until its record is freed.
//
// # Writing
//
//  1. Append copies the payload, once, into the batch that is collecting, and returns. Concurrent.
//  2. The flusher, one goroutine, takes the batch: one write, one fdatasync, then the done functions of its records in
//     order. Appends collect in the next batch meanwhile, so an idle journal flushes at once and a busy one in groups.
//  3. When nothing more comes for MarkDelay, the flusher writes an empty batch, a mark (see below).
//
// What is not flushed is bounded by Options.MaxPending: Append then waits for the disk, or returns ErrBusy if
// the entry says NoWait.
//
// # Format, version 1
//
// All integers are little-endian, all checksums CRC-32C (Castagnoli). A segment is named by its number, 16 hexadecimal
// digits and ".seg"; numbers only rise and are never used again. It begins with a header, then batches:
//
//	+----------------------+-------------------+-------------------+----- - - -----+
//	| header, k x 4096     | batch, n x 4096   | batch             | unused        |
//	+----------------------+-------------------+-------------------+----- - - -----+
//
// Header: the segment's identity, and of every other segment that was needed when this one was begun where its
// last batch ended.
//
//	 0  8  magic "FLOTJRNL"
//	 8  4  CRC of bytes 12 .. 48+16n
//	12  4  version, 1
//	16  8  segment number
//	24  8  salt, random; part of every checksum below, so that what an older use of the file left never looks valid
//	32  8  size of the segment in bytes
//	40  4  n
//	44  4  zero
//	48 16n segment number, end offset
//
// Batch: what one write and one fdatasync made durable. It begins at a multiple of 4096, so that it never shares a
// sector with an older one, and is filled up with zeroes.
//
//	 0  4  magic "FJB1"
//	 4  4  CRC of bytes 8 .. 40
//	 8  8  salt of the segment
//	16  8  segment number
//	24  8  offset of this batch
//	32  4  length in bytes without the filling
//	36  4  CRC of all its records' headers, one after the other
//	40     records, each at a multiple of 8 from the batch's begin:
//
//	 0  4  CRC of salt, offset of this record in the segment, and bytes 4 .. 40
//	 4  4  payload length in bytes
//	 8  4  CRC of the payload
//	12  4  kind: 1 data, 2 gone
//	16  8  group
//	24  8  set
//	32  8  tag
//	40     payload, then zeroes up to a multiple of 8
//
// A gone record's payload lists segment numbers, 8 bytes each: they hold nothing that is needed, and their files
// may be missing from here on. A batch without records is a mark.
//
// # Recovery: a torn tail, or rot
//
// Two rules of writing make the durable mark:
//
//   - a batch at offset q is written only after everything below q in its segment is durable;
//   - a segment's header is written only after everything in the segments it lists is durable up to their listed ends.
//
// So recovery believes nothing about durability but what it can prove. In every segment but the last, each byte up to
// the end that the newest header lists must be a valid batch. In the last one the first invalid batch, at p, is
// a torn tail (it was never reported durable and is cut off) unless any valid batch header stands above p: then p was
// durable once, and Open fails with ErrRot. A listed segment that is missing and not gone is ErrRot too, and so
// is a file whose header is invalid, since a file gets its name only when its header is durable. A batch is taken whole
// or not at all.
//
// What this detects: any damage to any batch that another batch, a mark or a newer segment follows. MarkDelay
// after the last record, and after Close, that is all of them. What it cannot tell from a torn tail: damage to the last
// batch with records, when the mark after it was not written yet (the machine went down within MarkDelay of the
// batch's flush) or is damaged as well. Nor does it see the loss of the newest segment file as a whole, of the
// whole directory, or a disk that acknowledges a flush and does not perform it. Damage in the unused filling
// harms nothing and is not reported. Where only a mark or gone record is damaged the answer is ErrRot
// all the same: nobody can know what was there.
//
// Rot also shows when a record is read: Read checks every byte it returns.
//
// A record whose done got an error, or whose done was not called before a crash, may or may not be there afterwards.
//
// Freed is not recorded. Open hands back every record whose segment still exists and the caller, who knows from
// elsewhere which sets are applied, calls Free again.
//
// # Space
//
// Limit counts whole segments, used or not. A record that would need a segment more than Limit minus Reserve is refused with
// ErrFull; one marked Urgent may go up to Limit. At a segment's end up to one record's length stays unused.
//
// One small record that is still needed keeps its whole segment: in the worst case Limit/SegmentSize records of a group
// that does not move on fill the journal. That shows as ErrFull, in Stats as Used far above Live, and ends when that
// group's set is freed; it never makes the journal exceed Limit.
//
// A disk that is full before Limit is ErrFull as well, through done; all records not yet durable fail with it, the
// durable ones stay, and appends succeed again once there is space.
//
// # Failure
//
// A failed fsync, or a write that fails for any reason but a full disk, is final: every pending and later Append gets
// ErrLost. It is never tried again, because the kernel may have dropped the pages and marked them clean. For the same
// reason a file "lost" is left in the directory, and Open refuses with ErrLost while it is there: the page cache could
// still show a restarted process what the disk does not have. (After a power cut the file may be gone, and so is
// the cache.)
//
// One process at a time may have a journal open; the owner of the state directory sees to that. Every segment keeps one
// file descriptor.
package journal

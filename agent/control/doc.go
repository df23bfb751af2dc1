// Package control keeps an agent's Raft log, hard state and newest snapshot on disk, in one bbolt file of its own: what a
// [core.Ready] says must be durable, and what a [core.Boot] starts from.
//
//	Open → Initialize (a new cluster's first agent only) → Boot → Save … → Close
//
// Each Save is one bbolt transaction with one fdatasync: after a crash the file holds either all of a Ready or nothing of
// it. The file's invariants, which Save keeps and Boot checks:
//
//   - the entries are contiguous and begin right above the snapshot (at index 1 where there is none), for a restart uses
//     nothing that the snapshot covers;
//   - the term never falls, no term has two votes, and committed lies between the snapshot and the last entry.
//
// A recovery from the loss of a majority (Recover) replaces all of it in one transaction; see core.Recover.
//
// A store whose write has failed takes nothing more: what is on disk after a failed fsync is not known, and the agent must
// stop and start from what it then reads.
//
// # Format, version 1
//
// Buckets and their keys; numbers are big-endian, so that keys ascend as indexes do:
//
//	format    "version" → u32
//	state     "hard" → record of raftpb.HardState, "snapshot" → record of raftpb.Snapshot,
//	          "promised", "behind" → CRC32C as in a record, u64; absent for 0
//	entries   index u64 → record of raftpb.Entry
//
// A record is a message in protobuf behind a checksum, because bbolt has none for values: bit-rot must show as an error,
// not as another history.
//
//	0                                        4
//	| CRC32C of bucket/key and the message   | message … |
package control

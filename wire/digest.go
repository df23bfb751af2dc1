package wire

import "github.com/zeebo/xxh3"

// DigestLength is the length of the digest that a check carries, in bytes.
const DigestLength = 16

// Digest returns the digest of a range's content: XXH3 with 128 bits and seed 0, in the order of bytes of its canonical
// form. A check is to find what disks, memory and software have done to a target, not what somebody has made up: who could
// do that has the target's keys. Against chance 128 bits are plenty, and at tens of GB/s the hash costs less than reading.
// Another hash would be told by another length.
func Digest(data []byte) [DigestLength]byte { return xxh3.Hash128(data).Bytes() }

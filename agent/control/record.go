package control

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"
)

const recordHeaderLength = 4

// castagnoli is never written after initialization.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func recordSum(bucket, key, message []byte) uint32 {
	crc := crc32.Update(0, castagnoli, bucket)
	crc = crc32.Update(crc, castagnoli, []byte{'/'})
	crc = crc32.Update(crc, castagnoli, key)
	return crc32.Update(crc, castagnoli, message)
}

// encodeRecord returns the value of a key.
func encodeRecord(bucket, key []byte, m proto.Message) ([]byte, error) {
	raw, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, recordHeaderLength, recordHeaderLength+proto.Size(m)), m)
	if err != nil {
		return nil, fmt.Errorf("encode %s %x: %w", bucket, key, err)
	}
	binary.BigEndian.PutUint32(raw, recordSum(bucket, key, raw[recordHeaderLength:]))
	return raw, nil
}

// decodeRecord reads what encodeRecord returned; m shares nothing with raw afterwards.
func decodeRecord(bucket, key, raw []byte, m proto.Message) error {
	if len(raw) < recordHeaderLength {
		return fmt.Errorf("%s %x has %d bytes: %w", bucket, key, len(raw), ErrCorrupt)
	}
	message := raw[recordHeaderLength:]
	if want, have := binary.BigEndian.Uint32(raw), recordSum(bucket, key, message); want != have {
		return fmt.Errorf("%s %x: CRC32C is %08x, computed %08x: %w", bucket, key, want, have, ErrCorrupt)
	}
	if err := proto.Unmarshal(message, m); err != nil {
		return fmt.Errorf("%s %x: %w: %w", bucket, key, err, ErrCorrupt)
	}
	return nil
}

func entryKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

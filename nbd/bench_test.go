package nbd_test

import (
	"context"
	"fmt"
	"testing"

	"flotilla/nbd"
	"flotilla/nbd/nbdclient"
)

// BenchmarkServer measures the server and our client together over a Unix
// socket, 32 requests in flight.
func BenchmarkServer(b *testing.B) {
	for _, m := range []struct {
		name string
		mode mode
	}{{"inline", inline}, {"worker", worker}, {"async", async}} {
		for _, size := range []int{4 << 10, 64 << 10, mib} {
			for _, op := range []string{"read", "write"} {
				b.Run(fmt.Sprintf("%s/%s/%dk", m.name, op, size>>10), func(b *testing.B) {
					s := start(b, nbd.Limits{}, one(newMemory(64*mib, m.mode)))
					ctx := context.Background()
					c, err := nbdclient.Dial(ctx, "unix", s.socket, "disk")
					if err != nil {
						b.Fatal(err)
					}
					defer c.Close()
					b.SetBytes(int64(size))
					b.SetParallelism(32)
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						p := make([]byte, size)
						for i := int64(0); pb.Next(); i++ {
							off := i * int64(size) % (64 * mib)
							var err error
							if op == "read" {
								err = c.ReadAt(ctx, p, off)
							} else {
								err = c.WriteAt(ctx, p, off, 0)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			}
		}
	}
}

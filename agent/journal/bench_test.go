package journal_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"flotilla/agent/journal"
	"flotilla/agent/vfs"
	"flotilla/wire"
)

// benchDirs are a directory in memory and one on a disk. FLOTILLA_BENCH_DIR names another place for the second.
func benchDirs(b *testing.B) map[string]string {
	b.Helper()
	dirs := map[string]string{}
	for name, parent := range map[string]string{"tmpfs": "/dev/shm", "disk": os.Getenv("FLOTILLA_BENCH_DIR")} {
		d, err := os.MkdirTemp(parent, "journal-bench-")
		if err != nil {
			b.Logf("%s: %v", name, err)
			continue
		}
		b.Cleanup(func() { os.RemoveAll(d) })
		dirs[name] = d
	}
	return dirs
}

// BenchmarkAppend appends from 8 goroutines, each with up to 16 records not yet durable, and frees what is old, so
// that segments are used again. It reports records and megabytes a second, and system calls for the data
// (one write and one fdatasync a batch) for each record.
func BenchmarkAppend(b *testing.B) {
	for name, dir := range benchDirs(b) {
		for _, size := range []int{512, 4 << 10, 64 << 10, 512 << 10} {
			for _, depth := range []int{1, 128} {
				b.Run(fmt.Sprintf("%s/%d/depth=%d", name, size, depth), func(b *testing.B) { benchAppend(b, dir, size, depth) })
			}
		}
	}
}

func benchAppend(b *testing.B, dir string, size, depth int) {
	opt := journal.Options{Dir: fmt.Sprintf("%s/%d-%d-%d", dir, size, depth, time.Now().UnixNano()), Limit: 2 << 30, Preallocate: true}
	j, err := journal.Open(vfs.OS(), opt, func(journal.Record) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(opt.Dir)
	data := payload(1, size)
	writers := min(depth, 8)
	b.SetBytes(int64(size))
	var wg sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for w := range writers {
		wg.Go(func() {
			slots := make(chan struct{}, depth/writers)
			done := func(_ journal.Ref, err error) {
				if err != nil {
					b.Error(err)
				}
				<-slots
			}
			e := journal.Entry{Group: 1, Parts: [][]byte{data}}
			for i := w; i < b.N; i += writers {
				slots <- struct{}{}
				e.Set = 1 + wire.Set(int64(i)*int64(size)>>27)
				if _, err := j.Append(e, done); err != nil {
					b.Error(err)
					return
				}
				if e.Set > 2 && i%64 == 0 {
					j.Free(1, e.Set-2)
				}
			}
			for range cap(slots) {
				slots <- struct{}{}
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	b.StopTimer()
	s := j.Stats()
	b.ReportMetric(float64(s.Appends)/elapsed, "appends/s")
	b.ReportMetric(float64(s.Batches+s.Syncs)/float64(s.Appends), "syscalls/append")
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRead reads records back, verified.
func BenchmarkRead(b *testing.B) {
	for name, dir := range benchDirs(b) {
		for _, size := range []int{4 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				opt := journal.Options{Dir: fmt.Sprintf("%s/read-%d-%d", dir, size, time.Now().UnixNano()), Limit: 256 << 20}
				j, err := journal.Open(vfs.OS(), opt, func(journal.Record) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
				defer os.RemoveAll(opt.Dir)
				var refs []journal.Ref
				for i := range 100 {
					refs = append(refs, mustPut(b, j, 1, uint64(i), size))
				}
				b.SetBytes(int64(size))
				var buf []byte
				i := 0
				for b.Loop() {
					if buf, err = j.Read(refs[i%len(refs)], buf); err != nil {
						b.Fatal(err)
					}
					i++
				}
				closeJournal(b, j)
			})
		}
	}
}

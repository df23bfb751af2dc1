package demo

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"flotilla/blockdev"
	"flotilla/internal/fleet"
)

// Of the machine's files, this many bytes and files are put into the file system at most.
const (
	maxFiles      = 2000
	maxFileLength = 4 * mib
)

// image is the bytes that a volume begins with.
type image struct {
	path   string
	length int64
	about  string // for people
	ext4   bool
}

// fileReader reads an image.
type fileReader struct {
	f      *os.File
	length int64
}

// ReadAt implements readerAt; behind the file's end there are zeroes.
func (r fileReader) ReadAt(_ context.Context, p []byte, at int64) error {
	n, err := r.f.ReadAt(p, at)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// givenImage copies what the user named: the source itself is only read.
func givenImage(source, path string) (im image, err error) {
	dev, err := blockdev.Open(source, blockdev.Options{ReadOnly: true})
	if err != nil {
		return im, fmt.Errorf("%w: source: %w", ErrOptions, err)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if dev.Size() == 0 || dev.Size() > maxSize {
		return im, fmt.Errorf("%w: %s has %d bytes: name a file or device of 1 byte to 4 GiB", ErrOptions, source, dev.Size())
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return im, fmt.Errorf("make image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, io.NewSectionReader(dev, 0, dev.Size())); err != nil {
		return im, fmt.Errorf("copy %s: %w", source, err)
	}
	return image{path: path, length: dev.Size(), about: source, ext4: isExt4(path)}, nil
}

// isExt4 looks for the magic number of ext2, 3 and 4 in the superblock.
func isExt4(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 2)
	_, err = f.ReadAt(magic, 1024+56)
	return err == nil && magic[0] == 0x53 && magic[1] == 0xef
}

// madeImage makes a file system out of files of this machine, with the first tool that is there.
func madeImage(ctx context.Context, spawn *fleet.Spawner, dir string, length int64) (image, error) {
	files := filepath.Join(dir, "files")
	from, count, err := gather(files, length/2)
	if err != nil {
		return image{}, err
	}
	defer os.RemoveAll(files) // with the rest of the directory, if not now
	path := filepath.Join(dir, "image")
	about := fmt.Sprintf("with %d files of %s", count, from)
	if tool := findTool("mkfs.ext4"); tool != "" {
		if _, err := spawn.Run(ctx, nil, tool, "-q", "-F", "-b", "4096", "-m", "0", "-d", files, path, fmt.Sprintf("%dk", length/1024)); err != nil {
			return image{}, err
		}
		return image{path: path, length: length, about: "an ext4 file system " + about, ext4: true}, nil
	}
	if tool := findTool("mksquashfs"); tool != "" {
		if _, err := spawn.Run(ctx, nil, tool, files, path, "-quiet", "-no-progress", "-noappend"); err != nil {
			return image{}, err
		}
		return sized(path, length, "a squashfs file system "+about)
	}
	if err := archive(path, files); err != nil {
		return image{}, err
	}
	return sized(path, length, "a tar archive "+about+" (neither mkfs.ext4, of the package e2fsprogs, nor mksquashfs, of squashfs-tools, is installed)")
}

// sized cuts or fills an image of a length of its own.
func sized(path string, length int64, about string) (image, error) {
	if err := os.Truncate(path, length); err != nil {
		return image{}, fmt.Errorf("size image: %w", err)
	}
	return image{path: path, length: length, about: about}, nil
}

// findTool finds a program that may be where only root looks.
func findTool(name string) string {
	for _, at := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(at); err == nil {
			return path
		}
	}
	return ""
}

// gather copies readable files of a directory of this machine, up to a number of bytes.
func gather(to string, limit int64) (from string, count int, err error) {
	for _, from := range []string{"/usr/share/doc", "/usr/share", "/usr/local", "/etc"} {
		if count, err = gatherFrom(from, to, limit); err != nil || count > 0 {
			return from, count, err
		}
	}
	return "", 0, errors.New("found no readable file below /usr/share nor /etc to make a file system of: name one with --source")
}

func gatherFrom(from, to string, limit int64) (count int, err error) {
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && d != nil && d.IsDir():
			return fs.SkipDir
		case err != nil || !d.Type().IsRegular():
			return nil
		case count >= maxFiles || limit <= 0:
			return fs.SkipAll
		}
		data, ok := readSmall(path, min(limit, maxFileLength))
		if !ok {
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		count++
		limit -= int64(len(data)) + 2*blockSize // its last block, and one for its directory
		return os.WriteFile(target, data, 0o644)
	})
	if err != nil {
		return 0, fmt.Errorf("gather files of %s: %w", from, err)
	}
	return count, nil
}

// readSmall reads a file that may be read and is no longer than the limit.
func readSmall(path string, limit int64) ([]byte, bool) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	return data, err == nil && int64(len(data)) <= limit
}

// archive puts a directory into a tar file.
func archive(path, files string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
	w := tar.NewWriter(f)
	err = errors.Join(w.AddFS(os.DirFS(files)), w.Close(), f.Close())
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
	return nil
}

// inventedImage makes bytes up: half of them noise, a quarter text, the rest a hole.
func inventedImage(path string, length int64, seed uint64) (im image, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return im, fmt.Errorf("make image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	if _, err := io.CopyN(f, noise, length/2); err != nil {
		return im, fmt.Errorf("make image: %w", err)
	}
	line := make([]byte, 0, 64<<10)
	for i := 0; cap(line)-len(line) > 64; i++ {
		line = fmt.Appendf(line, "entry %d of a table that compresses well\n", i)
	}
	for at := int64(0); at < length/4; at += int64(len(line)) {
		if _, err := f.Write(line[:min(int64(len(line)), length/4-at)]); err != nil {
			return im, fmt.Errorf("make image: %w", err)
		}
	}
	if err := f.Truncate(length); err != nil {
		return im, fmt.Errorf("make image: %w", err)
	}
	return image{path: path, length: length, about: "half noise, a quarter text, a quarter empty"}, nil
}

// sparseCopy makes a file of a size that begins with an image.
func sparseCopy(from, to string, size int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	if err := out.Truncate(size); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	return nil
}

// checkRoom makes sure that a directory has room for so many bytes more: sources, targets, and journals twice.
func checkRoom(dir string, need int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for room in %s: %w", dir, err)
	}
	if room := int64(st.Bavail) * st.Bsize; room < need {
		return fmt.Errorf("%w: %s has room for %s, and %s may be needed: set TMPDIR to another directory, or choose a smaller --size", ErrOptions, dir, bytesText(room), bytesText(need))
	}
	return nil
}

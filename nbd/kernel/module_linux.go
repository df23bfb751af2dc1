package kernel

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pmorjan/kmod"
	"golang.org/x/sys/unix"
)

// moduleParams are the module's parameters: no device is made ahead, and partitions show.
const moduleParams = "nbds_max=0 max_part=16"

// maxModule bounds a module's size after decompression, in bytes.
const maxModule = 64 << 20

// LoadModule loads the module nbd: by itself, then with modprobe. The error says what to install.
func LoadModule() error { return loadModule(loadDirectly, modprobe, release()) }

func loadModule(direct, fallback func() error, release string) error {
	first := direct()
	if first == nil {
		return nil
	}
	second := fallback()
	if second == nil {
		return nil
	}
	if errors.Is(first, unix.EPERM) || errors.Is(second, unix.EPERM) {
		return fmt.Errorf("load the kernel module nbd: %w: it needs the capability CAP_SYS_MODULE: run the agent as root, or load the module at boot by a line \"nbd\" in /etc/modules-load.d/flotilla.conf",
			ErrPrivilege)
	}
	return fmt.Errorf("load the kernel module nbd: %w: %w (and with modprobe: %w); install the module for kernel %s: on Debian linux-image-amd64, on Ubuntu linux-modules-extra-%s, on Fedora kernel-modules; clients of the NBD socket work without it",
		ErrUnsupported, first, second, release, release)
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func loadDirectly() error {
	k, err := kmod.New(kmod.SetInitFunc(insert))
	if err != nil {
		return err
	}
	return k.Load("nbd", moduleParams, 0)
}

func modprobe() error {
	program, err := exec.LookPath("modprobe")
	if err != nil {
		return err
	}
	out, err := exec.Command(program, append([]string{"nbd"}, strings.Fields(moduleParams)...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out[:min(len(out), 512)]))
	}
	return nil
}

// insert puts a module's file into the kernel. A compressed one is unpacked here: not every kernel does it itself.
func insert(path, params string, flags int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := unpack(path, f)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", path, err)
	}
	if plain == nil {
		return unix.FinitModule(int(f.Fd()), params, flags)
	}
	image, err := io.ReadAll(io.LimitReader(plain, maxModule+1))
	if err != nil {
		return fmt.Errorf("unpack %s: %w", path, err)
	}
	if len(image) > maxModule {
		return fmt.Errorf("unpack %s: it is larger than %d bytes", path, maxModule)
	}
	return unix.InitModule(image, params)
}

// unpack returns the reader of a compressed module, nil for one that is not, by the end of its name.
func unpack(path string, r io.Reader) (io.Reader, error) {
	switch {
	case strings.HasSuffix(path, ".ko"):
		return nil, nil
	case strings.HasSuffix(path, ".gz"):
		return gzip.NewReader(r)
	case strings.HasSuffix(path, ".zst"):
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
	}
	return nil, fmt.Errorf("this kind of compression is not known: modprobe may know it")
}

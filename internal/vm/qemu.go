package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// servers give the machine its root; newer releases have it in another place.
var servers = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}

// early are the modules that are needed before there is a root.
var early = []string{"virtio_pci", "virtio_blk", "virtiofs"}

const (
	kernelMemory = 600              // MiB that a distribution's kernel and its first root take, more than User Mode Linux
	trialTime    = 20 * time.Second // for a boot to nothing: several times what it takes with KVM
	emulated     = "tcg,thread=multi"
)

// qemu boots a distribution's own kernel. QEMU_KERNEL is a directory with an unpacked kernel package: boot/vmlinuz-RELEASE and
// lib/modules/RELEASE (`scripts/qemu-kernel.sh` prints one). Its root is this machine's, by virtiofs.
type qemu struct {
	image, server, accelerator string
	early                      []string // files of modules
}

func findQEMU(dir string) (*Kernel, error) {
	at := os.Getenv("QEMU_KERNEL")
	images, err := filepath.Glob(filepath.Join(at, "boot/vmlinuz-*"))
	if at == "" || err != nil || len(images) != 1 {
		return nil, fmt.Errorf("QEMU_KERNEL=%q has no single boot/vmlinuz-*: use the directory that `scripts/qemu-kernel.sh` prints", at)
	}
	q := &qemu{image: images[0]}
	for _, path := range servers {
		if _, err := os.Stat(path); err == nil {
			q.server = path
		}
	}
	if q.server == "" {
		return nil, fmt.Errorf("none of %q is there: %w vm-qemu", servers, ErrMissing)
	}
	release := strings.TrimPrefix(filepath.Base(q.image), "vmlinuz-")
	modules := Modules(filepath.Join(at, "lib/modules", release))
	if _, err := os.Stat(filepath.Join(string(modules), "modules.dep")); err != nil {
		return nil, fmt.Errorf("%w: depmod has not run in QEMU_KERNEL: use the directory that `scripts/qemu-kernel.sh` prints", err)
	}
	if q.early, err = modules.Order(early...); err != nil {
		return nil, err
	}
	if q.accelerator, err = q.accelerate(dir); err != nil {
		return nil, err
	}
	slower := 1
	if q.accelerator == emulated {
		slower = 4
	}
	return &Kernel{
		Name: fmt.Sprintf("qemu, Linux %s, accelerator %s", release, q.accelerator), Modules: modules, Slower: slower, disk: "/dev/vd%c", command: q.command,
	}, nil
}

// machine is qemu without memory and devices. Emulated clocks cost an exit each but for the TSC, which the kernel is told to trust.
func (q *qemu) machine(accelerator, initramfs string) []string {
	return []string{"qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", q.image, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"}
}

// accelerate says what qemu is to run with. There are hosts with a /dev/kvm in which no ordinary kernel boots, and so one is tried.
func (q *qemu) accelerate(dir string) (string, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return emulated, nil
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	image := filepath.Join(dir, "trial")
	if err := q.firstRoot(image, trialScript, nil, ""); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), trialTime)
	defer cancel()
	out, err := contained(ctx, append(q.machine("kvm", image), "-m", "512M")...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), trialWord) {
		return emulated, nil
	}
	return "kvm", nil
}

func (q *qemu) command(m *Machine, script string) ([]string, error) {
	image := filepath.Join(m.Dir, "initramfs")
	if err := q.firstRoot(image, firstScript, q.early, script); err != nil {
		return nil, err
	}
	// The server of the root comes first; both end with the namespace that they are in. Only the machine changes what it sees: with
	// less caching each start of a program reads it anew, and qemu translates it anew.
	const both = `"$0" --socket-path="$1" -o source=/ -o sandbox=chroot -o cache=always -o posix_lock &
while [ ! -S "$1" ]; do sleep 0.1; done
shift
exec "$@"`
	socket, memory := filepath.Join(m.Dir, "root.sock"), fmt.Sprintf("%dM", m.Memory+kernelMemory)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	words := append([]string{"sh", "-c", both, q.server, socket}, q.machine(q.accelerator, image)...)
	words = append(words, "-m", memory, "-object", "memory-backend-memfd,id=memory,share=on,size="+memory, "-numa", "node,memdev=memory",
		"-chardev", "socket,id=root,path="+socket, "-device", "vhost-user-fs-pci,chardev=root,tag=root")
	for i, d := range m.Disks { // what is flushed need not outlive this machine, only the virtual one
		words = append(words, "-drive", fmt.Sprintf("if=virtio,format=raw,cache=unsafe,discard=unmap,index=%d,file=%s", i, d))
	}
	return words, nil
}

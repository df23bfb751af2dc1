//go:build vmtest

package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// qemu boots a distribution's own kernel with two processors, without help from the host's. QEMU_KERNEL is a directory with an
// unpacked kernel package: boot/vmlinuz-RELEASE and lib/modules/RELEASE (`scripts/qemu-kernel.sh` prints one). Its root is
// this machine's, by virtiofs.
type qemu struct{}

// server is what gives the machine its root; newer releases have it in another place.
var servers = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}

// early are the modules that are needed before there is a root, and file systems that the kernel would ask modprobe for.
var early = []string{"virtio_pci", "virtio_blk", "virtiofs", "ext4", "xfs", "btrfs"}

// firstScript is the first program of all: it puts modules into the kernel and goes over to the real root.
const firstScript = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /new
/bin/busybox mount -t proc proc /proc
for m in $(/bin/busybox cat /order); do /bin/busybox insmod /modules/$m || /bin/busybox echo "$m is not loaded"; done
/bin/busybox mount -t virtiofs root /new || /bin/busybox poweroff -f
/bin/busybox umount /proc
for w in $(/bin/busybox cat /script); do exec /bin/busybox switch_root /new $w; done
/bin/busybox poweroff -f
`

func (qemu) prepare(dir string) (*kernel, error) {
	at := os.Getenv("QEMU_KERNEL")
	images, err := filepath.Glob(filepath.Join(at, "boot/vmlinuz-*"))
	if at == "" || err != nil || len(images) != 1 {
		return nil, fmt.Errorf("QEMU_KERNEL=%q has no single boot/vmlinuz-*: use the directory that `scripts/qemu-kernel.sh` prints", at)
	}
	server := ""
	for _, path := range servers {
		if _, err := os.Stat(path); err == nil {
			server = path
		}
	}
	if server == "" {
		return nil, fmt.Errorf("none of %q is there: run scripts/test-deps.sh vm-qemu", servers)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if out, err := exec.Command("depmod", "-b", at, release).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("depmod: %w: %s", err, out)
	}
	modules := filepath.Join(at, "lib/modules", release)
	order, err := modulesFor(modules, early)
	if err != nil {
		return nil, err
	}
	return &kernel{
		modules: modules, disks: names("/dev/vd%c", 16), slower: 4,
		command: func(dir, script string, disks []string) []string {
			image := filepath.Join(dir, "initramfs")
			if err := initramfs(image, modules, order, script); err != nil {
				return []string{"sh", "-c", `echo "$0"; exit 1`, err.Error()}
			}
			// The server of the root comes first; both end with the namespace that they are in.
			const both = `"$0" --socket-path="$1" -o source=/ -o sandbox=chroot -o cache=auto -o posix_lock &
while [ ! -S "$1" ]; do sleep 0.1; done
shift
exec "$@"`
			socket := filepath.Join(dir, "root.sock")
			words := []string{"sh", "-c", both, server, socket,
				"qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G", "-nographic", "-no-reboot",
				"-nic", "none", "-kernel", images[0], "-initrd", image, "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
				"-object", "memory-backend-memfd,id=memory,size=2G,share=on", "-numa", "node,memdev=memory",
				"-chardev", "socket,id=root,path=" + socket, "-device", "vhost-user-fs-pci,chardev=root,tag=root"}
			for i, d := range disks {
				words = append(words, "-drive", fmt.Sprintf("if=virtio,format=raw,cache=writeback,discard=unmap,index=%d,file=%s", i, d))
			}
			return words
		},
	}, nil
}

// modulesFor returns the files of modules and of what they need, in an order in which they can be loaded.
func modulesFor(dir string, wanted []string) (order []string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[path] = strings.Fields(rest)
	}
	soft := map[string][]string{"btrfs": {"crc32c_generic", "xxhash_generic"}, "ext4": {"crc32c_generic"}} // the package says "softdep"
	there := map[string]bool{}
	var add func(path string)
	add = func(path string) {
		if there[path] {
			return
		}
		there[path] = true
		for _, n := range needs[path] {
			add(n)
		}
		order = append(order, path)
	}
	find := func(name string) {
		for path := range needs {
			if strings.TrimSuffix(filepath.Base(path), ".ko") == name {
				add(path)
			}
		}
	}
	for _, name := range wanted {
		for _, s := range soft[name] {
			find(s)
		}
		find(name) // what is built in has none
	}
	return order, nil
}

// initramfs makes the first root: busybox, modules, and two lists.
func initramfs(image, modules string, order []string, script string) error {
	root, err := os.MkdirTemp(filepath.Dir(image), "first")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	var names []string
	files := map[string]string{"busybox": "bin/busybox"}
	for _, m := range order {
		names = append(names, filepath.Base(m))
		files[filepath.Join(modules, m)] = "modules/" + filepath.Base(m)
	}
	if files["busybox"], err = exec.LookPath("busybox"); err != nil {
		return err
	}
	files[files["busybox"]] = "bin/busybox"
	delete(files, "busybox")
	for from, to := range files {
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		to = filepath.Join(root, to)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, text, 0o755)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"init": firstScript, "order": strings.Join(names, "\n"), "script": script} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	out, err := os.Create(image)
	if err != nil {
		return err
	}
	var errs bytes.Buffer
	c := exec.Command("sh", "-c", "find . | cpio -o -H newc --quiet")
	c.Dir, c.Stdout, c.Stderr = root, out, &errs
	if err := errors.Join(c.Run(), out.Close()); err != nil {
		return fmt.Errorf("make the first root: %w: %s", err, errs.String())
	}
	return nil
}

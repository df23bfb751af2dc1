package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

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

// trialScript only says that it runs.
const (
	trialScript = `#!/bin/busybox sh
/bin/busybox echo ` + trialWord + `
/bin/busybox poweroff -f
`
	trialWord = "flotilla-runs"
)

// firstRoot makes an initramfs: busybox, its program, modules, and two lists.
func (q *qemu) firstRoot(image, init string, modules []string, script string) error {
	root, err := os.MkdirTemp(filepath.Dir(image), "first")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	files := map[string]string{busybox: "bin/busybox"}
	var names []string
	for _, m := range modules {
		names = append(names, filepath.Base(m))
		files[m] = "modules/" + filepath.Base(m)
	}
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
	for name, text := range map[string]string{"init": init, "order": strings.Join(names, "\n"), "script": script} {
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

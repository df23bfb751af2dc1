package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Modules is a directory with a kernel's modules, as depmod leaves it.
type Modules string

// soft are what modules ask for by name when they run; the packages say "softdep".
var soft = map[string][]string{"btrfs": {"crc32c_generic", "xxhash_generic"}}

// Order returns the files of modules and of what they need, in an order in which they can be loaded, the last one named last.
// What is built in has no file.
func (d Modules) Order(names ...string) (order []string, err error) {
	text, err := os.ReadFile(filepath.Join(string(d), "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("order kernel modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(string(d), "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("order kernel modules: %w", err)
	}
	needs, paths := map[string][]string{}, map[string]string{}
	for path := range strings.Lines(string(builtin)) {
		paths[loadedName(strings.TrimSpace(path))] = ""
	}
	for line := range strings.Lines(string(text)) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[path], paths[loadedName(path)] = strings.Fields(rest), path
	}
	var add func(path string)
	add = func(path string) {
		file := filepath.Join(string(d), path)
		for _, n := range needs[path] {
			add(n)
		}
		if !slices.Contains(order, file) {
			order = append(order, file)
		}
	}
	for _, name := range names {
		for _, n := range append(soft[name], name) {
			path, ok := paths[loadedName(n)]
			if !ok {
				return nil, fmt.Errorf("order kernel modules: %s has no %s", d, n)
			}
			if path != "" {
				add(path)
			}
		}
	}
	return order, nil
}

// loadedName is what the kernel calls a module in a file.
func loadedName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

package vm

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	umlProgram = "linux.uml"
	umlModules = "/usr/lib/uml/modules/*"
)

// umlAlarm bounds for how long User Mode Linux stands still when it has lost its timer, as it did in long runs in which agents were
// killed and started again. The timer is then not armed (timer_gettime says 0) and the idle loop spins: no
// process wakes by time any more, though the clock goes on. Any SIGALRM is its timer's interrupt, and it arms the next.
const umlAlarm = 50 * time.Millisecond

// findUML looks for User Mode Linux, which boots as a process.
func findUML() (*Kernel, error) {
	found, err := filepath.Glob(umlModules)
	if _, lookErr := exec.LookPath(umlProgram); lookErr != nil || err != nil || len(found) != 1 {
		return nil, fmt.Errorf("look for %s and its modules in %s: %w", umlProgram, umlModules, ErrMissing)
	}
	return &Kernel{
		Name: "User Mode Linux " + filepath.Base(found[0]), Modules: Modules(found[0]), Slower: 1, alarm: umlAlarm, disk: "/dev/ubd%c",
		command: func(m *Machine, script string) ([]string, error) {
			words := []string{umlProgram, fmt.Sprintf("mem=%dM", m.Memory), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet",
				"init=" + script, "con=null", "con0=fd:0,fd:1", "uml_dir=" + m.Dir, "umid=vm"}
			for i, d := range m.Disks {
				words = append(words, fmt.Sprintf("ubd%d=%s", i, d))
			}
			return words, nil
		},
	}, nil
}

package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// lineWidth is where lines are broken, barWidth the length of the progress bar, plainEvery the percentage between two
// lines of progress where no bar can be drawn.
const (
	lineWidth  = 80
	barWidth   = 10
	plainEvery = 25
)

// narrator tells the story. It is used by one goroutine. What cannot be written is lost: the proof matters more.
type narrator struct {
	w        io.Writer
	terminal bool
	step     int
	drawn    bool // a bar is on the current line
}

// title begins a numbered step.
func (n *narrator) title(format string, args ...any) {
	n.clear()
	n.step++
	_, _ = fmt.Fprintf(n.w, "\n%d. %s\n", n.step, fmt.Sprintf(format, args...))
}

// say writes a paragraph of the step.
func (n *narrator) say(format string, args ...any) {
	n.clear()
	for _, line := range wrap(fmt.Sprintf(format, args...), lineWidth-3) {
		_, _ = fmt.Fprintf(n.w, "   %s\n", line)
	}
}

// raw writes lines as they are.
func (n *narrator) raw(text string) {
	n.clear()
	_, _ = io.WriteString(n.w, text)
}

func (n *narrator) clear() {
	if n.drawn {
		_, _ = io.WriteString(n.w, "\r\x1b[K")
		n.drawn = false
	}
}

// wrap breaks a text between words; a longer word stays whole.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// progress shows how far something is.
type progress struct {
	n       *narrator
	what    string
	started time.Time
	printed int // percent
}

func (n *narrator) progress(what string) *progress {
	return &progress{n: n, what: what, started: time.Now()}
}

// at draws the bar, or prints a line now and then.
func (p *progress) at(done, total int64) {
	if total <= 0 {
		return
	}
	done = min(max(done, 0), total)
	percent := int(100 * done / total)
	rate := float64(done) / max(time.Since(p.started).Seconds(), 0.001)
	left := "-"
	if rate > 0 {
		left = fmt.Sprintf("%.0f s", float64(total-done)/rate)
	}
	text := fmt.Sprintf("%3d%%  %s of %s  %s/s  %s left", percent, bytesText(done), bytesText(total), bytesText(int64(rate)), left)
	if p.n.terminal {
		full := barWidth * percent / 100
		_, _ = fmt.Fprintf(p.n.w, "\r\x1b[K   %s [%s%s] %s", p.what, strings.Repeat("█", full), strings.Repeat("·", barWidth-full), text)
		p.n.drawn = true
		return
	}
	if percent >= p.printed+plainEvery || (percent == 100 && p.printed < 100) {
		p.printed = percent
		p.n.say("%s: %s", p.what, text)
	}
}

// joining shows how many of something are there, where a bar can be drawn.
func (p *progress) joining(count, of int) {
	if p.n.terminal {
		_, _ = fmt.Fprintf(p.n.w, "\r\x1b[K   %s: %d of %d", p.what, count, of)
		p.n.drawn = true
	}
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1000<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// seconds writes a duration for people.
func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

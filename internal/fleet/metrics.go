package fleet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"flotilla/agent/api"
)

// Metrics are what an agent counts, in Prometheus' text format: lines of `name{label="value",…} number`.
type Metrics []string

// Metrics asks the host's agent for what it counts.
func (h *Host) Metrics(ctx context.Context) (Metrics, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	answer, err := h.API.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s for metrics: %w", h.Name, err)
	}
	defer answer.Body.Close()
	return readMetrics(io.LimitReader(answer.Body, api.MaxAnswer))
}

func readMetrics(r io.Reader) (Metrics, error) {
	var m Metrics
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if line := lines.Text(); line != "" && line[0] != '#' {
			m = append(m, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return m, nil
}

// Sum adds up a metric over all lines that have a label of this kind, such as `kind="data"`; over all lines when it is
// empty. There must be one.
func (m Metrics) Sum(name, label string) (float64, error) {
	total, found := 0.0, false
	for _, line := range m {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || (rest[0] != '{' && rest[0] != ' ') || !strings.Contains(rest, label) {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("read metric %q: %w", line, err)
		}
		total, found = total+v, true
	}
	if !found {
		return 0, fmt.Errorf("read metrics: the agent has no %s with %q", name, label)
	}
	return total, nil
}

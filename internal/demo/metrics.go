package demo

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

// sentMetric counts what an agent sent to another; the label kind tells frames of updates from the rest.
const sentMetric = "flotilla_peer_sent_bytes_total{"

// sentBytes asks an agent how many bytes of updates it has sent.
func sentBytes(ctx context.Context, client *api.Client) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("ask for metrics: %w", err)
	}
	answer, err := client.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	return sumSent(io.LimitReader(answer.Body, api.MaxAnswer))
}

// sumSent adds the metric up over the peers.
func sumSent(metrics io.Reader) (int64, error) {
	total, found := 0.0, false
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, sentMetric) || !strings.Contains(line, `kind="data"`) {
			continue
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("read metric %q: %w", line, err)
		}
		total, found = total+v, true
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	if !found {
		return 0, fmt.Errorf("read metrics: the agent has no %s…kind=\"data\"}", sentMetric)
	}
	return int64(total), nil
}

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Client talks to one agent. It is safe for concurrent use.
type Client struct {
	http  *http.Client
	where string // for people
}

// NewClient returns a client over connections that dial opens; where names the agent in errors.
func NewClient(where string, dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{where: where, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dial(ctx)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		MaxIdleConns:       2,
		IdleConnTimeout:    10 * time.Second,
		DisableCompression: true,
	}}}
}

// dialError marks failures before anything of a request was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// NewSocketClient returns a client of the agent that serves a Unix socket.
func NewSocketClient(path string) *Client {
	return NewClient("the agent at "+path, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// RoundTrip sends a prepared request on; its scheme and host do not matter. A failure is an *Error: Unavailable when
// nothing was sent, Unknown when it may have arrived and is of a kind that changes something.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Scheme, r.URL.Host = "http", "agent"
	answer, err := c.http.Do(r)
	if err == nil {
		return answer, nil
	}
	if _, dialing := errors.AsType[*dialError](err); dialing || r.Method == http.MethodGet {
		return nil, &Error{Code: Unavailable, Text: fmt.Sprintf("cannot reach %s: %v", c.where, bare(err))}
	}
	return nil, &Error{Code: Unknown, Text: fmt.Sprintf("no answer from %s: %v; the request may have been carried out: look before you repeat it", c.where, bare(err))}
}

// bare takes the method and address off that net/http puts before an error.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// Call makes a request with in as its JSON body, if in is not nil, and reads the answer into out, if out is not nil.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request to %s: %w", c.where, err)
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return fmt.Errorf("make request to %s: %w", c.where, err)
	}
	answer, err := c.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return ReadAnswer(answer, out)
}

// ReadAnswer reads the body of an answer: out, if that is not nil, or the *Error that it carries.
func ReadAnswer(answer *http.Response, out any) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, MaxAnswer+1))
	if err != nil {
		return &Error{Code: Unknown, Text: fmt.Sprintf("read answer: %v; the request may have been carried out", err)}
	}
	if len(text) > MaxAnswer {
		return fmt.Errorf("read answer: it is longer than %d bytes", MaxAnswer)
	}
	if answer.StatusCode > 299 {
		e := &Error{}
		if json.Unmarshal(text, e) != nil || e.Code == "" || e.Text == "" {
			return fmt.Errorf("read answer: status %s without an error document", answer.Status)
		}
		return e
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// Status asks for the cluster's status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	s := &Status{}
	return s, c.Call(ctx, http.MethodGet, "/v1/status", nil, s)
}

// Events asks for the agent's events after a number, and waits up to wait for the first.
func (c *Client) Events(ctx context.Context, after uint64, wait time.Duration) (*EventPage, error) {
	p := &EventPage{}
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "wait": {strconv.Itoa(int(wait / time.Second))}}
	return p, c.Call(ctx, http.MethodGet, "/v1/events?"+q.Encode(), nil, p)
}

// Local asks for what only an agent itself knows; of the agent that the client talks to when name is empty.
func (c *Client) Local(ctx context.Context, name string) (*Local, error) {
	path := "/v1/agent"
	if name != "" {
		path = "/v1/agents/" + url.PathEscape(name)
	}
	l := &Local{}
	return l, c.Call(ctx, http.MethodGet, path, nil, l)
}

// Device asks for the size of a file or block device on an agent's host.
func (c *Client) Device(ctx context.Context, agent, path string) (*Device, error) {
	d := &Device{}
	return d, c.Call(ctx, http.MethodGet, "/v1/agents/"+url.PathEscape(agent)+"/device?"+url.Values{"path": {path}}.Encode(), nil, d)
}

// Plan asks what promoting a group would come to.
func (c *Client) Plan(ctx context.Context, group string) (*Plan, error) {
	p := &Plan{}
	return p, c.Call(ctx, http.MethodGet, GroupPath(group)+"/promote", nil, p)
}

// GroupPath returns the path of a group's resource.
func GroupPath(group string) string { return "/v1/groups/" + url.PathEscape(group) }

// DevicePath returns the path of the block device of a volume, on the agent's own host.
func DevicePath(group, volume string, force bool) string {
	path := "/v1/agent/devices/" + url.PathEscape(group) + "/" + url.PathEscape(volume)
	if force {
		path += "?force=1"
	}
	return path
}

// VolumePath returns the path of a volume's resource.
func VolumePath(group, volume string) string {
	return GroupPath(group) + "/volumes/" + url.PathEscape(volume)
}

package openfaas

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// PendingCalls counts the asynchronous calls that are not done, by function and
// sorted by name; "" is all namespaces. Functions with none are left out.
func (c *Client) PendingCalls(ctx context.Context, namespace string) ([]PendingCalls, error) {
	q := url.Values{}
	if namespace != "" {
		q.Set("namespace", namespace)
	}
	var out []PendingCalls
	err := c.do(ctx, call{op: "list pending calls", method: http.MethodGet, path: "/system/async/pending", query: q, out: &out})
	return out, err
}

// DeadLetterQuery selects dead letters.
type DeadLetterQuery struct {
	Namespace string // "" is all, but with Name DefaultNamespace
	Name      string // of a function; "" is all
	From      uint64 // the first sequence number; to go on, the last one seen and 1
	Limit     int    // 0 is the gateway's, 100
}

// DeadLetters lists dead letters, oldest first.
func (c *Client) DeadLetters(ctx context.Context, in DeadLetterQuery) ([]DeadLetter, error) {
	q := url.Values{}
	if in.Namespace != "" {
		q.Set("namespace", in.Namespace)
	}
	if in.Name != "" {
		q.Set("name", in.Name)
	}
	if in.From > 0 {
		q.Set("from", strconv.FormatUint(in.From, 10))
	}
	if in.Limit > 0 {
		q.Set("limit", strconv.Itoa(in.Limit))
	}
	var out []DeadLetter
	err := c.do(ctx, call{op: "list dead letters", method: http.MethodGet, path: "/system/async/dead-letters", query: q, out: &out})
	return out, err
}

// Redrive puts a dead letter back into the queue.
func (c *Client) Redrive(ctx context.Context, seq uint64) error {
	n := strconv.FormatUint(seq, 10)
	return c.do(ctx, call{op: "redrive dead letter " + n, method: http.MethodPost, path: "/system/async/dead-letters/" + n + "/redrive"})
}

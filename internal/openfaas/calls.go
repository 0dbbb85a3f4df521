package openfaas

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Call looks up an invocation that the gateway remembers, by its X-Call-Id. It
// is NotFound when it was neither cold, slow nor failed, or is too long ago.
func (c *Client) Call(ctx context.Context, id string) (Call, error) {
	var out Call
	err := c.do(ctx, call{op: "look up call " + id, method: http.MethodGet, path: "/system/calls/" + url.PathEscape(id), out: &out})
	return out, err
}

// Calls are the invocations that the gateway remembers, the newest first: of a
// function, or of all if name is empty; limit 0 is the gateway's, 20.
func (c *Client) Calls(ctx context.Context, namespace, name string, limit int) ([]Call, error) {
	q := url.Values{}
	if name != "" {
		q.Set("name", name)
	}
	if namespace != "" {
		q.Set("namespace", namespace)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out []Call
	err := c.do(ctx, call{op: "list calls", method: http.MethodGet, path: "/system/calls", query: q, out: &out})
	return out, err
}

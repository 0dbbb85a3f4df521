package openfaas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client talks to a gateway. Only URL is required. It is safe for concurrent
// use. Namespaces may be empty: then DefaultNamespace is meant.
type Client struct {
	URL      string // of the gateway, with or without a slash at the end
	User     string // basic auth for /system; both empty: none is sent
	Password string
	Token    string       // sent as a bearer token instead, when not empty
	HTTP     *http.Client // nil is http.DefaultClient
}

// Error is an answer of the gateway that is not a success.
type Error struct {
	Op     string // what was asked, such as "delete function resize"
	Status int    // of HTTP
	Text   string // the body, trimmed; may be empty
}

func (e *Error) Error() string {
	text := e.Text
	if text == "" {
		text = http.StatusText(e.Status)
	}
	if e.Status == http.StatusUnauthorized {
		text += ", log in first"
	}
	return fmt.Sprintf("%s: %s (%d)", e.Op, text, e.Status)
}

// StatusOf is the HTTP status of an Error in err's chain, 0 if there is none.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

// IsNotFound reports whether the gateway said that what was named isn't there.
func IsNotFound(err error) bool { return StatusOf(err) == http.StatusNotFound }

// IsConflict reports whether the gateway said that it exists already.
func IsConflict(err error) bool { return StatusOf(err) == http.StatusConflict }

// maxErrorText bounds how much of a body becomes an error's text.
const maxErrorText = 16 << 10

type call struct {
	op     string
	method string
	path   string // escaped, starts with a slash
	query  url.Values
	in     any // marshalled as JSON unless nil
	out    any // JSON of the answer is put there unless nil
}

func (c *Client) do(ctx context.Context, k call) error {
	resp, err := c.open(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if k.out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorText))
	} else {
		err = json.NewDecoder(resp.Body).Decode(k.out)
	}
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", k.op, err)
	}
	return nil
}

// open sends the request; the caller closes the body. An answer outside 2xx is
// an Error.
func (c *Client) open(ctx context.Context, k call) (*http.Response, error) {
	var body io.Reader
	if k.in != nil {
		b, err := json.Marshal(k.in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.op, err)
		}
		body = bytes.NewReader(b)
	}
	u := strings.TrimSuffix(c.URL, "/") + k.path
	if len(k.query) > 0 {
		u += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.op, err)
	}
	if k.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	c.authorize(req)
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.op, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, errorOf(k.op, resp)
	}
	return resp, nil
}

func (c *Client) authorize(req *http.Request) {
	switch {
	case c.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.Token)
	case c.User != "" || c.Password != "":
		req.SetBasicAuth(c.User, c.Password)
	}
}

func (c *Client) client() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	return http.DefaultClient
}

func errorOf(op string, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	return &Error{Op: op, Status: resp.StatusCode, Text: strings.TrimSpace(string(text))}
}

func inNamespace(ns string) url.Values {
	if ns == "" {
		ns = DefaultNamespace
	}
	return url.Values{"namespace": {ns}}
}

func orDefault(ns string) string {
	if ns == "" {
		return DefaultNamespace
	}
	return ns
}

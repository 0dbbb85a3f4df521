package openfaas

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Invocation is a call of a function.
type Invocation struct {
	Namespace string
	Name      string
	Method    string // "" is POST
	Path      string // below the function, with or without a slash in front; escaped
	Query     url.Values
	Header    http.Header
	Body      io.Reader // nil is empty; it is streamed
	Async     bool      // queue the call: the answer is 202 with a call id
}

// Invoke calls a function. The answer is the function's own, whatever its
// status is, and redirects are not followed; the caller closes its body. The
// error is about the way there only. The client's credentials are not sent:
// they are not the function's business.
func (c *Client) Invoke(ctx context.Context, in Invocation) (*http.Response, error) {
	base := "/function/"
	if in.Async {
		base = "/async-function/"
	}
	if in.Method == "" {
		in.Method = http.MethodPost
	}
	u := strings.TrimSuffix(c.URL, "/") + base + url.PathEscape(in.Name) + "." + url.PathEscape(orDefault(in.Namespace))
	if p := strings.TrimPrefix(in.Path, "/"); p != "" {
		u += "/" + p
	}
	if len(in.Query) > 0 {
		u += "?" + in.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, in.Method, u, in.Body)
	if err != nil {
		return nil, fmt.Errorf("invoke %s: %w", in.Name, err)
	}
	if in.Header != nil {
		req.Header = in.Header.Clone()
		if h := in.Header.Get("Host"); h != "" {
			req.Host = h
		}
	}
	hc := *c.client()
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("invoke %s: %w", in.Name, err)
	}
	return resp, nil
}

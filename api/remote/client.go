// Package remote implements the three seams over HTTP: clients that stand for
// Objects, Capacity and Agent in another process, and handlers that serve a
// Capacity or an Agent. Objects are served by the Kubernetes API itself.
// Errors travel as Status and come back as StatusErrors.
package remote

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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Config says where the other process is.
type Config struct {
	URL    string       // scheme, host and port, and a path before every route if there is one
	Token  string       // sent as a bearer token; "" sends none
	Client *http.Client // nil is one of its own; it must have no Timeout, for that would cut streams
}

// client does requests.
type client struct {
	base  string
	token string
	http  *http.Client
}

func newClient(cfg Config) *client {
	c := &client{base: strings.TrimSuffix(cfg.URL, "/"), token: cfg.Token, http: cfg.Client}
	if c.http == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 64
		t.Proxy = nil // the components of one platform talk directly
		c.http = &http.Client{Transport: t}
	}
	return c
}

// UserAgent is how the components of the platform present themselves.
const UserAgent = "podsnap"

// request is what is asked for. path is escaped already.
type request struct {
	method, path string
	query        url.Values
	contentType  string // of body; "" is JSON
	body         io.Reader
}

// send answers with a response whose status is a success; the caller closes
// its body. Every other answer is a StatusError.
func (c *client) send(ctx context.Context, r request) (*http.Response, error) {
	u := c.base + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, r.body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, u, err)
	}
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", UserAgent)
	if r.body != nil {
		ct := r.contentType
		if ct == "" {
			ct = "application/json"
		}
		req.Header.Set("Content-Type", ct)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readStatus(resp)
}

// call sends in, if it is not nil, as JSON, and answers with the whole body.
func (c *client) call(ctx context.Context, r request, in any) ([]byte, error) {
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: encode the body: %w", r.method, r.path, err)
		}
		r.body = bytes.NewReader(b)
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	return b, nil
}

// unreachable is the error of a request that got no answer: whether it took
// effect is unknown.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return apierrors.NewServiceUnavailable(err.Error())
}

// maxStatus bounds what is read of an error, in bytes.
const maxStatus = 1 << 20

func readStatus(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err == nil {
		var st metav1.Status
		if json.Unmarshal(b, &st) == nil && st.Kind == "Status" {
			return &apierrors.StatusError{ErrStatus: st}
		}
	}
	method := strings.ToLower(resp.Request.Method)
	return apierrors.NewGenericServerResponse(resp.StatusCode, method, schema.GroupResource{}, resp.Request.URL.Path, strings.TrimSpace(string(b)), 0, true)
}

// statusOf is err on the wire.
func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	st := apierrors.NewInternalError(err).Status()
	switch {
	case errors.As(err, &known):
		st = known.Status()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		st = apierrors.NewTimeoutError(err.Error(), 0).Status()
	}
	st.Kind, st.APIVersion = "Status", "v1"
	if st.Code == 0 {
		st.Code = http.StatusInternalServerError
	}
	return &st
}

func fail(w http.ResponseWriter, err error) {
	st := statusOf(err)
	writeJSON(w, int(st.Code), st)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","code":500}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody is left to tell
}

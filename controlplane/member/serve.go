package member

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/internal/join"
)

// maxRequest bounds what is read, in bytes.
const maxRequest = 1 << 16

// ServeHTTP serves join.MembersPath and what is below it: GET lists, POST takes a
// join.Newcomer in, PUT gives it its vote, DELETE of a name below removes.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, err := d.serve(r)
	join.Reply(w, out, err)
}

func (d *Desk) serve(r *http.Request) (any, error) {
	below := strings.Trim(strings.TrimPrefix(r.URL.EscapedPath(), join.MembersPath), "/")
	name, err := url.PathUnescape(below)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	ctx := r.Context()
	switch {
	case name == "" && r.Method == http.MethodGet:
		return d.List(ctx)
	case name == "" && r.Method == http.MethodPost:
		n, err := newcomer(r)
		if err != nil {
			return nil, err
		}
		return d.Enter(ctx, n)
	case name == "" && r.Method == http.MethodPut:
		n, err := newcomer(r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, d.Promote(ctx, n)
	case name != "" && r.Method == http.MethodDelete:
		ctx, cancel := context.WithTimeout(ctx, removeTimeout)
		defer cancel()
		return struct{}{}, d.Remove(ctx, name)
	}
	return nil, apierrors.NewMethodNotSupported(resource, r.Method)
}

func newcomer(r *http.Request) (n join.Newcomer, err error) {
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxRequest)).Decode(&n); err != nil {
		return n, apierrors.NewBadRequest("the body must be a newcomer as JSON: " + err.Error())
	}
	return n, nil
}

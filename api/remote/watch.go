package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// Watch implements api.Objects.
func (o *Objects) Watch(ctx context.Context, r *api.Resource, wo api.WatchOptions) (api.Watch, error) {
	q := selection(wo.Labels, wo.Fields)
	q.Set("watch", "true")
	q.Set("allowWatchBookmarks", "true")
	if wo.ResourceVersion == "" || wo.ResourceVersion == "0" {
		q.Set("sendInitialEvents", "true")
		q.Set("resourceVersionMatch", string(metav1.ResourceVersionMatchNotOlderThan))
	} else {
		q.Set("resourceVersion", wo.ResourceVersion)
	}
	open := func(ctx context.Context) (*http.Response, error) {
		return o.c.send(ctx, request{method: http.MethodGet, path: path(r, wo.Namespace, "", true), query: q})
	}
	return newStream(ctx, open, func(line []byte) (api.Event, error) { return event(r, line) })
}

func event(r *api.Resource, line []byte) (api.Event, error) {
	var in struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return api.Event{}, fmt.Errorf("decode an event of %s: %w", r, err)
	}
	if in.Type == "ERROR" {
		var st metav1.Status
		if err := json.Unmarshal(in.Object, &st); err != nil {
			return api.Event{}, fmt.Errorf("decode an error of a watch of %s: %w", r, err)
		}
		return api.Event{}, &apierrors.StatusError{ErrStatus: st}
	}
	obj, err := decode(r, in.Object)
	if err != nil {
		return api.Event{}, err
	}
	ev := api.Event{Type: api.EventType(in.Type), Object: obj}
	if ev.Type == api.Bookmark && obj.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
		ev.InitialEventsEnd = true
		obj.SetAnnotations(nil)
	}
	return ev, nil
}

// stream is a response of one JSON value a line, decoded by a goroutine that
// ends with the response, the context or Stop.
type stream[T any] struct {
	events  chan T
	cancel  context.CancelFunc
	stopped atomic.Bool
	done    chan struct{}
	err     error // set before done is closed
}

// newStream opens the response and reads on. decode turns a line into an event
// or the error that ends the stream.
func newStream[T any](ctx context.Context, open func(context.Context) (*http.Response, error), decode func([]byte) (T, error)) (*stream[T], error) {
	inner, cancel := context.WithCancel(ctx)
	resp, err := open(inner) //nolint:bodyclose // run closes it
	if err != nil {
		cancel()
		return nil, err
	}
	s := &stream[T]{events: make(chan T, 16), cancel: cancel, done: make(chan struct{})}
	go s.run(ctx, inner, resp.Body, decode)
	return s, nil
}

func (s *stream[T]) run(ctx, inner context.Context, body io.ReadCloser, decode func([]byte) (T, error)) {
	defer close(s.done)
	defer close(s.events)
	defer s.cancel()
	defer body.Close()
	err := s.read(inner, bufio.NewReaderSize(body, 64<<10), decode)
	switch {
	case s.stopped.Load():
	case ctx.Err() != nil:
		s.err = context.Cause(ctx)
	case errors.Is(err, io.EOF):
		s.err = apierrors.NewTimeoutError("the server has ended the stream; ask again from the last event", 0)
	default:
		s.err = err
	}
}

func (s *stream[T]) read(ctx context.Context, from *bufio.Reader, decode func([]byte) (T, error)) error {
	for {
		line, err := from.ReadBytes('\n')
		if err != nil {
			return closed(err)
		}
		ev, err := decode(line)
		if err != nil {
			return err
		}
		select {
		case s.events <- ev:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// closed tells the end of a stream from a connection that broke.
func closed(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	return apierrors.NewServiceUnavailable("the stream broke off: " + err.Error())
}

// Events implements api.Watch and api.EndpointStream.
func (s *stream[T]) Events() <-chan T { return s.events }

// Err implements api.Watch and api.EndpointStream.
func (s *stream[T]) Err() error {
	<-s.done
	return s.err
}

// Stop implements api.Watch and api.EndpointStream.
func (s *stream[T]) Stop() {
	s.stopped.Store(true)
	s.cancel()
	<-s.done
}

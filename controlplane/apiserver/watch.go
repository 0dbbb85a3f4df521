package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

const (
	// minWatch and twice as much bound a watch that names no time itself: so
	// that clients of a restarted server do not all come back at once.
	minWatch = 30 * time.Minute

	// writeTimeout is how long a client may take to read what was written.
	writeTimeout = time.Minute
)

// watchOptions are a watch's parameters.
type watchOptions struct {
	api.WatchOptions
	timeout time.Duration

	bookmarks bool // the client wants them
	initial   bool // it gets the present state first
	marked    bool // and a bookmark with an annotation after that
}

func readWatchOptions(c *call, q url.Values) (watchOptions, error) {
	o := watchOptions{
		WatchOptions: api.WatchOptions{Namespace: c.namespace, ResourceVersion: q.Get("resourceVersion"), View: c.view},
		bookmarks:    flag(q, "allowWatchBookmarks"),
		timeout:      minWatch + rand.N(minWatch),
	}
	var err error
	if o.Labels, o.Fields, err = c.selectors(q); err != nil {
		return o, err
	}
	if c.name != "" {
		o.Fields = fields.AndSelectors(o.Fields, fields.OneTermEqualSelector("metadata.name", c.name))
	}
	rv := o.ResourceVersion
	if _, err := strconv.ParseUint(rv, 10, 64); err != nil && rv != "" {
		return o, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: %q is not a version of this API", rv))
	}
	if v := q.Get("timeoutSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 0 {
			return o, apierrors.NewBadRequest(fmt.Sprintf("timeoutSeconds: %q is not a number of seconds", v))
		}
		if n > 0 {
			o.timeout = time.Duration(n) * time.Second
		}
	}
	o.initial = rv == "" || rv == "0"
	match := q.Get("resourceVersionMatch")
	if !q.Has("sendInitialEvents") {
		if match != "" {
			return o, invalidList("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
		}
		return o, nil
	}
	if match != string(metav1.ResourceVersionMatchNotOlderThan) {
		return o, invalidList("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	}
	o.initial = flag(q, "sendInitialEvents")
	o.marked = o.initial
	if o.initial {
		o.ResourceVersion = ""
	}
	return o, nil
}

func forbiddenList(name, detail string) field.ErrorList {
	return field.ErrorList{field.Forbidden(field.NewPath(name), detail)}
}

func invalidList(name, detail string) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", forbiddenList(name, detail))
}

func (s *Server) watch(c *call) error {
	o, err := readWatchOptions(c, c.r.URL.Query())
	if err != nil {
		return err
	}
	f, err := s.codec.accept(c.r, hasProtobuf(c.resource), asTable, asPartial, asPartialList)
	if err != nil {
		return err
	}
	contentType := runtime.ContentTypeJSON // streams have no YAML
	if f.media == runtime.ContentTypeProtobuf {
		contentType = f.media + ";stream=watch"
	}
	ctx, cancel := context.WithTimeout(c.ctx(), o.timeout)
	defer cancel()
	w, err := s.cfg.Objects.Watch(ctx, c.resource, o.WatchOptions)
	if err != nil {
		return err
	}
	defer w.Stop()
	c.w.Header().Set("Content-Type", contentType)
	c.w.Header().Set("Cache-Control", "no-cache, private")
	c.w.WriteHeader(http.StatusOK)
	out := &eventWriter{c: c, o: o, form: f, codec: s.codec, conn: http.NewResponseController(c.w), settled: o.initial}
	if f.media == runtime.ContentTypeJSON && f.as == "" {
		out.texts = s.shared(c)
	}
	if err := out.run(w.Events()); err != nil {
		return nil //nolint:nilerr // the client has gone: a watch just ends
	}
	// That the server ends is no fault of the watch: told of one, a client would list
	// again, where it can go on from what it has seen, at the next server.
	if err := w.Err(); err != nil && ctx.Err() == nil && !apierrors.IsServiceUnavailable(err) {
		_ = out.send("ERROR", statusOf(err)) // it ends in any case
		_ = out.conn.Flush()
	}
	return nil
}

// eventWriter writes events as the client wants to see them.
type eventWriter struct {
	c       *call
	o       watchOptions
	form    form
	codec   *codec
	conn    *http.ResponseController
	settled bool // what comes is for the client: it is past, or wants, the initial state
	columns bool // the columns of the table have been described

	texts *texts // nil: this watch's are its own
	line  []byte // a buffer
}

// run writes events until they end. It flushes when none is waiting, so that
// a burst is one packet and a single event is not late.
func (e *eventWriter) run(events <-chan api.Event) error {
	if e.o.ResourceVersion != "" && e.o.ResourceVersion != "0" {
		e.settled = true
	}
	if err := e.conn.Flush(); err != nil {
		return err
	}
	for ev := range events {
		if err := e.event(ev); err != nil {
			return err
		}
		if len(events) > 0 {
			continue
		}
		if err := e.conn.Flush(); err != nil {
			return err
		}
		// Over HTTP/2 a deadline that passes ends the stream, even when everything
		// has been read and nothing is new.
		_ = e.conn.SetWriteDeadline(time.Time{})
	}
	return nil
}

func (e *eventWriter) event(ev api.Event) error {
	if ev.InitialEventsEnd && !e.settled {
		e.settled = true
		return nil
	}
	if !e.settled {
		return nil
	}
	if ev.Type == api.Bookmark {
		if !e.o.bookmarks {
			return nil
		}
		return e.send(string(ev.Type), e.bookmark(ev))
	}
	if e.texts != nil {
		return e.sendText(ev)
	}
	if e.c.view != nil {
		ev.Object = e.c.view.Show(ev.Object)
	}
	switch e.form.as {
	case asTable:
		t, err := newTable(e.c, []api.Object{ev.Object})
		if err != nil {
			return err
		}
		if e.columns {
			t.ColumnDefinitions = nil
		}
		e.columns = true
		t.ResourceVersion = ev.Object.GetResourceVersion()
		return e.send(string(ev.Type), t)
	case asPartial, asPartialList:
		return e.send(string(ev.Type), partial(ev.Object))
	}
	return e.send(string(ev.Type), e.c.shown(ev.Object))
}

// bookmark is an object of the kind with nothing but a resourceVersion, and a
// mark when it ends the initial state that the client asked for.
func (e *eventWriter) bookmark(ev api.Event) any {
	rv := ev.Object.GetResourceVersion()
	var annotations map[string]string
	if ev.InitialEventsEnd && e.o.marked {
		annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	switch e.form.as {
	case asTable:
		return &metav1.Table{TypeMeta: tableType(), ListMeta: metav1.ListMeta{ResourceVersion: rv}}
	case asPartial, asPartialList:
		p := &metav1.PartialObjectMetadata{TypeMeta: partialType()}
		p.ResourceVersion, p.Annotations = rv, annotations
		return p
	}
	obj := e.c.wire().New()
	obj.SetResourceVersion(rv)
	obj.SetAnnotations(annotations)
	obj.GetObjectKind().SetGroupVersionKind(e.c.wire().GVK())
	return obj
}

func (e *eventWriter) send(eventType string, obj any) error {
	b, err := e.codec.encodeEvent(e.form.media, eventType, obj)
	if err != nil {
		return err
	}
	return e.write(b)
}

// sendText sends what was encoded for all who follow the same.
func (e *eventWriter) sendText(ev api.Event) error {
	b, err := e.texts.of(ev.Object, e.c.view)
	if err != nil {
		return err
	}
	e.line = append(e.line[:0], `{"type":"`...)
	e.line = append(e.line, ev.Type...)
	e.line = append(e.line, `","object":`...)
	e.line = append(e.line, b...)
	e.line = append(e.line, "}\n"...)
	return e.write(e.line)
}

func (e *eventWriter) write(b []byte) error {
	// Not every ResponseWriter has deadlines; then the connection's end is
	// what stops a reader that does not read.
	_ = e.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := e.c.w.Write(b)
	return err
}

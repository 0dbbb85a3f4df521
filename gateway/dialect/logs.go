package dialect

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// LogsPath is where logs are read, and followed.
const LogsPath = "/system/logs"

// logWindow is how far back a query goes that names neither a time nor a number
// of lines.
const logWindow = 5 * time.Minute

// logQuery is what a client wants to read.
type logQuery struct {
	namespace, name, instance string
	tail                      int // negative is all
	since                     time.Time
	follow                    bool
}

func unprocessable(format string, args ...any) error {
	return fault(http.StatusUnprocessableEntity, format, args...)
}

func readLogQuery(r *http.Request, now time.Time) (logQuery, error) {
	v := r.URL.Query()
	q := logQuery{name: v.Get("name"), instance: v.Get("instance"), tail: -1}
	if q.name == "" {
		return q, unprocessable("name: name the function whose logs you want")
	}
	var err error
	if q.namespace, err = namespaceOf(r, ""); err != nil {
		return q, err
	}
	if s := v.Get("tail"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return q, unprocessable("tail: %q is not a whole number", short(s))
		}
		if n > 0 {
			q.tail = n
		}
	}
	if s := v.Get("since"); s != "" {
		if q.since, err = time.Parse(time.RFC3339, s); err != nil {
			return q, unprocessable("since: %q is not a time as in 2026-01-02T15:04:05Z", short(s))
		}
	} else if v.Get("tail") == "" {
		q.since = now.Add(-logWindow)
	}
	if s := v.Get("follow"); s != "" {
		if q.follow, err = strconv.ParseBool(s); err != nil {
			return q, unprocessable("follow: %q is neither true nor false", short(s))
		}
	}
	return q, nil
}

func (d *Dialect) logs(w http.ResponseWriter, r *http.Request) error {
	q, err := readLogQuery(r, d.c.Now())
	if err != nil {
		return err
	}
	if d.c.Agents == nil {
		return fault(http.StatusNotImplemented, "this gateway reaches no node's logs")
	}
	if _, err := d.function(r.Context(), q.namespace, q.name); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := &lineWriter{q: q, w: bufio.NewWriterSize(w, 32<<10), c: http.NewResponseController(w)}
	out.json = json.NewEncoder(out.w)
	out.json.SetEscapeHTML(false)
	if q.follow {
		return d.followLogs(ctx, q, out, w)
	}
	return d.readLogs(ctx, q, out, w)
}

// line is one line of one replica.
type line struct {
	pod  string
	at   time.Time
	text string
}

// lineWriter writes lines as the client reads them.
type lineWriter struct {
	q    logQuery
	w    *bufio.Writer
	json *json.Encoder
	c    *http.ResponseController
}

func (o *lineWriter) line(l line) error {
	return o.json.Encode(openfaas.LogLine{Name: o.q.name, Namespace: o.q.namespace, Instance: l.pod, Timestamp: l.at, Text: l.text})
}

func (o *lineWriter) flush() error {
	if err := o.w.Flush(); err != nil {
		return err
	}
	return o.c.Flush()
}

func begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
}

// openLogs opens the log of a replica.
func (d *Dialect) openLogs(ctx context.Context, p *corev1.Pod, q logQuery) (*lineReader, error) {
	a, err := d.c.Agents(ctx, p.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	rc, err := a.Logs(ctx, p.UID, api.LogOptions{Follow: q.follow, Tail: q.tail, Since: q.since, Timestamps: true})
	if err != nil {
		return nil, err
	}
	return &lineReader{pod: p.Name, rc: rc, r: bufio.NewReaderSize(rc, 64<<10)}, nil
}

// lineReader reads the lines of one replica.
type lineReader struct {
	pod  string
	rc   io.ReadCloser
	r    *bufio.Reader
	at   time.Time // of the line before
	more bool      // the line before was cut, this one goes on with it
}

// next is the next line. One that is too long comes in parts.
func (l *lineReader) next() (line, error) {
	b, more, err := l.r.ReadLine()
	if err != nil {
		return line{}, err
	}
	text, cont := string(b), l.more
	l.more = more
	if stamp, rest, ok := strings.Cut(text, " "); ok && !cont {
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
			l.at, text = at, rest
		}
	}
	return line{pod: l.pod, at: l.at, text: text}, nil
}

// readLogs writes what there is, ordered by time.
func (d *Dialect) readLogs(ctx context.Context, q logQuery, out *lineWriter, w http.ResponseWriter) error {
	pods, err := d.pods(ctx, q.namespace, q.name)
	if err != nil {
		return err
	}
	var sources []*lineReader
	defer func() {
		for _, s := range sources {
			s.rc.Close()
		}
	}()
	var fault error
	for _, p := range pods {
		if p.Spec.NodeName == "" || q.instance != "" && q.instance != p.Name {
			continue
		}
		s, err := d.openLogs(ctx, p, q)
		switch {
		case apierrors.IsNotFound(err): // not started yet, or gone by now
		case err != nil:
			fault = err
		default:
			sources = append(sources, s)
		}
	}
	if fault != nil && len(sources) == 0 {
		return fault
	}
	begin(w)
	if err := merge(sources, q.tail, out.line); err != nil {
		return nil // the client is gone
	}
	_ = out.flush()
	return nil
}

// merge hands the lines of all sources to put, oldest first; the last tail of
// them, if that is not negative. A source that fails ends.
func merge(sources []*lineReader, tail int, put func(line) error) error {
	type head struct {
		s *lineReader
		l line
	}
	var heads []head
	for _, s := range sources {
		if l, err := s.next(); err == nil {
			heads = append(heads, head{s, l})
		}
	}
	var kept []line // a ring of tail places, begun at place first
	first := 0
	for len(heads) > 0 {
		i := 0
		for j := range heads {
			if heads[j].l.at.Before(heads[i].l.at) {
				i = j
			}
		}
		l := heads[i].l
		switch {
		case tail < 0:
			if err := put(l); err != nil {
				return err
			}
		case len(kept) < tail:
			kept = append(kept, l)
		case tail > 0:
			kept[first] = l
			first = (first + 1) % tail
		}
		next, err := heads[i].s.next()
		if err != nil {
			heads = slices.Delete(heads, i, i+1)
			continue
		}
		heads[i].l = next
	}
	for i := range kept {
		if err := put(kept[(first+i)%len(kept)]); err != nil {
			return err
		}
	}
	return nil
}

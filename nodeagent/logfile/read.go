package logfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Options select what is read of a log.
type Options struct {
	Tail       int             // the last so many lines of what is there; negative is all
	Since      time.Time       // leave older lines out
	Follow     bool            // go on with what is written later
	Until      <-chan struct{} // ends following once all that is written has been read; nil never does
	Timestamps bool            // RFC 3339 with nanoseconds and a space before each line
}

// Read opens the log at path as plain text, rotated files included, oldest
// line first. A Read of the answer delivers whole lines when the buffer has
// room for them. Following ends with ctx (its error), with Until, or when the
// log is removed (io.EOF). A log that does not exist is
// fs.ErrNotExist; when following, it is waited for if its directory exists.
// The caller closes the answer; reads and Close are not concurrent.
func Read(ctx context.Context, path string, o Options) (io.ReadCloser, error) {
	r := &reader{done: ctx.Done(), cause: func() error { return context.Cause(ctx) }, path: path, o: o, inLine: map[Stream]bool{}}
	if o.Follow {
		w, err := watch(path)
		if err != nil {
			return nil, err
		}
		r.watch = w
	}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

type reader struct {
	done  <-chan struct{}
	cause func() error
	path  string
	o     Options
	watch *watcher // nil when not following

	files  []*os.File // still to be read; the first is being read
	in     *bufio.Reader
	rest   []byte          // a line whose end is not written yet
	out    []byte          // text that is ready
	inLine map[Stream]bool // the stream's last piece was a partial line
	ended  bool            // what is there now is the last
}

// open opens the log's files and finds the place to start at.
func (r *reader) open() error {
	files, err := openAll(r.path)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		if r.watch == nil {
			return fmt.Errorf("open log: %w", &fs.PathError{Op: "open", Path: r.path, Err: fs.ErrNotExist})
		}
		return nil
	}
	r.files = files
	if r.o.Tail >= 0 {
		if r.files, err = seekTail(files, r.o.Tail); err != nil {
			return fmt.Errorf("seek in log: %w", err)
		}
	}
	r.in = bufio.NewReaderSize(r.files[0], 64<<10)
	return nil
}

// openAll opens the log's files, oldest first. The newest is opened first, so
// that a rotation meanwhile shows a file twice and never hides one.
func openAll(path string) (files []*os.File, err error) {
	var seen []os.FileInfo
	for i := 0; ; i++ {
		f, err := os.Open(numbered(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 {
				continue // in the middle of a rotation
			}
			break
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open log: %w", err)
		}
		st, err := f.Stat()
		if err != nil || slices.ContainsFunc(seen, func(s os.FileInfo) bool { return os.SameFile(s, st) }) {
			f.Close()
			continue
		}
		seen, files = append(seen, st), append(files, f)
	}
	slices.Reverse(files)
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// fill makes some text ready or answers with why there is no more.
func (r *reader) fill() error {
	select {
	case <-r.done:
		return r.cause()
	default:
	}
	if len(r.files) > 0 {
		err := r.lines()
		if err == nil || len(r.out) > 0 || !errors.Is(err, io.EOF) {
			return ignoreEOF(err)
		}
		if len(r.files) > 1 {
			r.nextFile()
			return nil
		}
	}
	if r.watch == nil {
		return io.EOF
	}
	if moved, err := r.moved(); moved || err != nil {
		return err
	}
	if r.ended {
		return io.EOF
	}
	select {
	case <-r.done:
		return r.cause()
	case <-r.o.Until:
		r.ended = true
	case _, ok := <-r.watch.wake:
		r.ended = !ok
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// lines turns what is buffered of the file into text, at least one line.
func (r *reader) lines() error {
	r.out = r.out[:0]
	for {
		b, err := r.in.ReadSlice('\n')
		r.rest = append(r.rest, b...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return err // the rest waits for its end
		}
		r.emit(r.rest)
		r.rest = r.rest[:0]
		if r.in.Buffered() == 0 || len(r.out) > 64<<10 {
			return nil
		}
	}
}

func (r *reader) emit(raw []byte) {
	l, err := Parse(raw)
	if err != nil { // cut by a crash, or not ours: show it as it is
		r.out = append(r.out, raw...)
		return
	}
	if l.Time.Before(r.o.Since) {
		return
	}
	if r.o.Timestamps && !r.inLine[l.Stream] {
		r.out = append(l.Time.AppendFormat(r.out, time.RFC3339Nano), ' ')
	}
	r.out = append(r.out, l.Text...)
	if !l.Partial {
		r.out = append(r.out, '\n')
	}
	r.inLine[l.Stream] = l.Partial
}

func (r *reader) nextFile() {
	r.files[0].Close()
	r.files = r.files[1:]
	r.in.Reset(r.files[0])
	r.rest = r.rest[:0]
}

// moved looks, at the end of the newest file known, whether the log goes on
// in newer ones.
func (r *reader) moved() (bool, error) {
	if len(r.files) > 0 {
		mine, err1 := r.files[0].Stat()
		newest, err2 := os.Stat(r.path)
		if err1 == nil && err2 == nil && os.SameFile(mine, newest) {
			return false, nil
		}
	}
	now, err := openAll(r.path)
	if err != nil {
		return false, err
	}
	if len(r.files) == 0 {
		if len(now) == 0 {
			return false, nil
		}
		r.files, r.in = now, bufio.NewReaderSize(now[0], 64<<10)
		return true, nil
	}
	mine, err := r.files[0].Stat()
	if err != nil {
		closeAll(now)
		return false, err
	}
	newer := now
	for i, f := range now {
		if st, err := f.Stat(); err == nil && os.SameFile(st, mine) {
			closeAll(now[:i+1])
			newer = now[i+1:]
			break
		}
	}
	r.files = append(r.files, newer...)
	return len(newer) > 0, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	closeAll(r.files)
	r.files = nil
	if r.watch != nil {
		r.watch.close()
	}
	return nil
}

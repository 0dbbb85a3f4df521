package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Writer appends lines to a log and rotates it. It is safe for concurrent use.
type Writer struct {
	path  string
	max   int64
	files int

	mu   sync.Mutex
	f    *os.File
	size int64
	buf  []byte
}

// NewWriter opens the log at path for appending and makes its directory. When
// a file would grow over limit bytes (0 is 10 MiB) it is rotated; files (0 is 3)
// is how many are kept, the current one included.
func NewWriter(path string, limit int64, files int) (*Writer, error) {
	if limit <= 0 {
		limit = 10 << 20
	}
	if files <= 0 {
		files = 3
	}
	w := &Writer{path: path, max: limit, files: files}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	return w, w.open()
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	w.f, w.size = f, st.Size()
	return nil
}

// Write appends lines with one write call. They never span two files.
func (w *Writer) Write(lines ...Line) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = w.buf[:0]
	for _, l := range lines {
		before := len(w.buf)
		w.buf = l.Append(w.buf)
		if w.size+int64(len(w.buf)) > w.max && w.size+int64(before) > 0 {
			if err := w.flush(w.buf[:before]); err != nil {
				return err
			}
			if err := w.rotate(); err != nil {
				return err
			}
			w.buf = append(w.buf[:0], w.buf[before:]...)
		}
	}
	return w.flush(w.buf)
}

func (w *Writer) flush(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if w.f == nil { // a rotation went wrong before
		if err := w.open(); err != nil {
			return err
		}
	}
	n, err := w.f.Write(b)
	w.size += int64(n)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// rotate renames path to path.1, path.1 to path.2 and so on.
func (w *Writer) rotate() error {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
	// The current file is always renamed, as its deletion ends its readers.
	for i := max(w.files-1, 1); i >= 1; i-- {
		if err := os.Rename(numbered(w.path, i-1), numbered(w.path, i)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	if w.files == 1 {
		_ = os.Remove(numbered(w.path, 1))
	}
	return w.open()
}

// Close closes the log file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

func numbered(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, i)
}

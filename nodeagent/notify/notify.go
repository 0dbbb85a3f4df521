// Package notify tells of changes in a directory as the kernel sees them
// (inotify), so that nobody has to look again and again.
package notify

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Events of a Watch: what happened to an entry of the directory.
const (
	Modified = unix.IN_MODIFY
	Written  = unix.IN_CLOSE_WRITE // who has written it has closed it
	Created  = unix.IN_CREATE
	MovedIn  = unix.IN_MOVED_TO
	MovedOut = unix.IN_MOVED_FROM
	Deleted  = unix.IN_DELETE
	// Lost is told without a name: there were more changes than the kernel keeps.
	Lost = unix.IN_Q_OVERFLOW
	// Gone is told without a name: the directory is not there any more. It is the last.
	Gone = unix.IN_IGNORED
)

// Watch is a directory that is watched, until Close.
type Watch struct {
	f  *os.File
	wg sync.WaitGroup
}

// Directory has told called for each of the events that happens in dir, one at a
// time and in order, until it answers with false; Lost and Gone come unasked. end is
// called when nothing more will be told. A change before Directory returns is not told.
func Directory(dir string, events uint32, told func(event uint32, name string) (more bool), end func()) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, fmt.Errorf("too many directories are watched at once; raise sysctl fs.inotify.max_user_instances: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, events|unix.IN_ONLYDIR); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	w := &Watch{f: os.NewFile(uintptr(fd), "inotify")}
	w.wg.Go(func() {
		defer end()
		w.run(told)
	})
	return w, nil
}

func (w *Watch) run(told func(uint32, string) bool) {
	buf := make([]byte, 8<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return // closed
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(e.Len)
			name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
			if !told(e.Mask, name) || e.Mask&Gone != 0 {
				return
			}
			b = b[end:]
		}
	}
}

// Close ends the watch; nothing is told afterwards.
func (w *Watch) Close() {
	w.f.Close()
	w.wg.Wait()
}

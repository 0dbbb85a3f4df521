package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher wakes when a file may have changed. wake is closed when
// the file is deleted (not: renamed).
type watcher struct {
	wake chan struct{}
	f    *os.File
	wg   sync.WaitGroup
}

// watch starts to watch the file at path, which need not exist.
func watch(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, fmt.Errorf("follow log: too many logs are followed at once; raise sysctl fs.inotify.max_user_instances: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	dir := filepath.Dir(path)
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("follow log: %w", &os.PathError{Op: "watch", Path: dir, Err: err})
	}
	w := &watcher{wake: make(chan struct{}, 1), f: os.NewFile(uintptr(fd), "inotify")}
	w.wg.Go(func() { w.run(filepath.Base(path)) })
	return w, nil
}

func (w *watcher) run(name string) {
	defer close(w.wake)
	buf := make([]byte, 8<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return // closed
		}
		changed := false
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(e.Len)
			got := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
			if e.Mask&unix.IN_IGNORED != 0 || e.Mask&unix.IN_DELETE != 0 && got == name {
				return
			}
			changed = changed || e.Mask&unix.IN_Q_OVERFLOW != 0 || strings.HasPrefix(got, name)
			b = b[end:]
		}
		if changed {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (w *watcher) close() {
	w.f.Close()
	w.wg.Wait()
}

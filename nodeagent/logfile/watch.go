package logfile

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/notify"
)

// watcher wakes when a file may have changed. wake is closed when
// the file is deleted (not: renamed).
type watcher struct {
	wake chan struct{}
	dir  *notify.Watch
}

// watch starts to watch the file at path, which need not exist.
func watch(path string) (*watcher, error) {
	w := &watcher{wake: make(chan struct{}, 1)}
	name := filepath.Base(path)
	told := func(event uint32, got string) bool {
		if event&notify.Gone != 0 || event&notify.Deleted != 0 && got == name {
			return false
		}
		if event&notify.Lost != 0 || strings.HasPrefix(got, name) {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
		return true
	}
	var err error
	w.dir, err = notify.Directory(filepath.Dir(path), notify.Modified|notify.Created|notify.MovedIn|notify.Deleted, told, func() { close(w.wake) })
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	return w, nil
}

func (w *watcher) close() { w.dir.Close() }

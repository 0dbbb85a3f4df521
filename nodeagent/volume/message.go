package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// longestMessage is as much of what a container says at its end as counts.
const longestMessage = 4096

// Message makes the file into which an instance of a container may write why it
// ends, and says where it goes; false when the container has a volume there. The
// file of the instance before the last one goes.
func (m *Manager) Message(p *corev1.Pod, c *corev1.Container, attempt int) (runtime.Mount, bool, error) {
	target := filepath.Clean(c.TerminationMessagePath)
	if c.TerminationMessagePath == "" || !filepath.IsAbs(target) {
		return runtime.Mount{}, false, nil
	}
	for _, v := range c.VolumeMounts {
		if filepath.Clean(v.MountPath) == target {
			return runtime.Mount{}, false, nil
		}
	}
	path, err := m.message(p.UID, c.Name, attempt)
	if err != nil {
		return runtime.Mount{}, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return runtime.Mount{}, false, err
	}
	if old, err := m.message(p.UID, c.Name, attempt-2); err == nil {
		_ = os.Remove(old) // one that stays is removed with the pod
	}
	// Whoever runs in the container may write it.
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return runtime.Mount{}, false, err
	}
	if err := os.Chmod(path, 0o666); err != nil { // whatever the umask
		return runtime.Mount{}, false, err
	}
	return runtime.Mount{Source: path, Target: target}, true, nil
}

// Said is what an instance of a container has written there; "" is nothing.
func (m *Manager) Said(pod types.UID, container string, attempt int) (string, error) {
	path, err := m.message(pod, container, attempt)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, longestMessage))
	return string(b), err
}

func (m *Manager) message(pod types.UID, container string, attempt int) (string, error) {
	dir, err := m.dir(pod)
	return filepath.Join(dir, "messages", fmt.Sprintf("%s-%d", container, attempt)), err
}

package daemon

import (
	"context"
	"fmt"
	"os"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/podsnap/podsnap/nodeagent/manifest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// manifests is the directory of this machine's static pods: the one that was named, or
// the usual one if it is there. "" is none.
func (c *Config) manifests() string {
	if c.PodManifestPath != "" {
		return c.PodManifestPath
	}
	usual := c.path("manifests")
	if st, err := os.Stat(usual); err != nil || !st.IsDir() {
		return ""
	}
	return usual
}

// validateManifests tells what is wrong with the directory before anything starts.
func (c *Config) validateManifests() error {
	if c.PodManifestPath == "" {
		return nil
	}
	if _, err := manifest.New(manifest.Config{Dir: c.PodManifestPath}); err != nil {
		return fmt.Errorf("--pod-manifest-path: %w", err)
	}
	return nil
}

// static is what tells the agent of static pods; nil: there are none.
func (p *platform) static(rec *record.Recorder) (func(context.Context, func([]*corev1.Pod)) error, error) {
	path := p.c.manifests()
	if path == "" {
		return nil, nil
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.c.NodeName, UID: types.UID(p.c.NodeName)}}
	dir, err := manifest.New(manifest.Config{
		Dir: path, Node: p.c.NodeName, Log: p.log,
		Admit: func(ctx context.Context, pod *corev1.Pod) error {
			return admission.Admit(ctx, rules.OpCreate, api.Pods, nil, pod, "")
		},
		Refused: func(file string, err error) {
			rec.Eventf(node, corev1.EventTypeWarning, "FailedStaticPod", "the static pod of %s is not taken: %v", file, err)
		},
	})
	if err != nil {
		return nil, err
	}
	return dir.Run, nil
}

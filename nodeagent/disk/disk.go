// Package disk removes the folders of persistent volumes that are on this node's disk
// and that nobody wants any more. That a folder is to go is said by the volume's object,
// which is deleted and held by api.FinalizerDisk alone; a folder without an object
// stays: it may be somebody's data.
package disk

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/mirror"
)

// goneMark begins the name of a folder that is being removed.
const goneMark = ".gone-"

// usedAgain is when to look again at a volume that a pod still has.
const usedAgain = time.Second

// Config says where volumes are. All but Log and Metrics have to be set.
type Config struct {
	Root    string // their folder
	Node    string // the node's name
	Objects api.Objects
	// Used tells whether a pod of this node has a volume's folder.
	Used    func(folder string) (bool, error)
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Keeper is the loop.
type Keeper struct {
	c       Config
	volumes *mirror.Mirror[*corev1.PersistentVolume]
	loop    *loop.Loop[string]
}

// New makes a keeper. It does nothing before Run.
func New(c Config) *Keeper {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{c: c}
	k.volumes = mirror.New[*corev1.PersistentVolume](c.Objects, api.PersistentVolumes, mirror.Options{
		Fields: fields.OneTermEqualSelector("spec.nodeName", c.Node), Log: c.Log,
	})
	k.loop = loop.New(loop.Config{Name: "disks", Log: c.Log, Metrics: c.Metrics}, k.reconcile)
	k.volumes.OnChange(func(t api.EventType, _, now *corev1.PersistentVolume) {
		if t != api.Deleted && due(now, c.Node) {
			k.loop.Add(now.Name)
		}
	})
	return k
}

// due tells whether a volume's folder is to go: nothing holds it but that.
func due(v *corev1.PersistentVolume, node string) bool {
	return v.DeletionTimestamp != nil && slices.Equal(v.Finalizers, []string{api.FinalizerDisk}) && api.IsDiskOf(v, node)
}

// Run removes folders until ctx is done and returns nil then.
func (k *Keeper) Run(ctx context.Context) error {
	if err := k.finish(); err != nil {
		k.c.Log.Warn("folders of volumes that were being removed", slog.Any("error", err))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.volumes.Run(ctx) })
	g.Go(func() error { return k.loop.Run(ctx, k.volumes.Synced()) })
	return g.Wait()
}

// finish removes what an earlier process has not got to the end of.
func (k *Keeper) finish() error {
	entries, err := os.ReadDir(k.c.Root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goneMark) {
			if err := os.RemoveAll(filepath.Join(k.c.Root, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *Keeper) reconcile(ctx context.Context, name string) (time.Duration, error) {
	v, ok := k.volumes.Get("", name)
	if !ok || !due(v, k.c.Node) {
		return 0, nil
	}
	own, err := api.FolderOfVolume(v)
	if err != nil {
		return 0, err
	}
	folder := filepath.Join(k.c.Root, own)
	used, err := k.c.Used(folder)
	if err != nil {
		return 0, fmt.Errorf("who uses volume %s: %w", name, err)
	}
	if used {
		return usedAgain, nil
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		if err := k.remove(folder); err != nil {
			return 0, fmt.Errorf("remove volume %s: %w", name, err)
		}
		k.c.Log.Info("volume removed", slog.String("volume", name), slog.String("folder", folder))
	}
	_, err = api.Mutate(ctx, k.c.Objects, api.PersistentVolumes, "", name, api.UpdateOptions{}, func(o *corev1.PersistentVolume) (bool, error) {
		if o.UID != v.UID || !due(o, k.c.Node) {
			return false, nil
		}
		o.Finalizers = nil
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

// remove takes a folder out of sight first: a volume is there or it is not.
func (k *Keeper) remove(folder string) error {
	gone := filepath.Join(k.c.Root, goneMark+filepath.Base(folder))
	if err := os.Rename(folder, gone); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.RemoveAll(gone)
}

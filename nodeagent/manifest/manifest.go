// Package manifest reads the static pods of a node: one from each file of a
// directory. It says what they are, and does not run them.
package manifest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/nodeagent/notify"
)

// Annotations of static pods next to corev1.MirrorPodAnnotationKey, known from kubelet.
const (
	annotationHash   = "kubernetes.io/config.hash"
	annotationSource = "kubernetes.io/config.source"
	annotationSeen   = "kubernetes.io/config.seen"
)

// largest is how long a file may be: as long as what the API takes.
const largest = 3 << 20

// Config says where manifests are.
type Config struct {
	Dir  string
	Node string
	// Admit fills in what a pod leaves open and judges it, as the API does; nil: it is
	// taken as it is.
	Admit func(context.Context, *corev1.Pod) error
	// Refused is told of a file that holds no pod that can be run; nil is nobody.
	Refused func(file string, err error)
	Log     *slog.Logger // nil discards
}

// Directory is the directory of a node's static pods.
type Directory struct {
	c     Config
	files map[string]version // by name
}

// version is a file as it was read last.
type version struct {
	sum [sha256.Size]byte
	pod *corev1.Pod // the newest one that could be read; nil: none could
}

// New looks at the directory, which has to be there.
func New(c Config) (*Directory, error) {
	switch st, err := os.Stat(c.Dir); {
	case err != nil:
		return nil, fmt.Errorf("directory of static pods: %w", err)
	case !st.IsDir():
		return nil, fmt.Errorf("directory of static pods: %s is a file", c.Dir)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Directory{c: c, files: map[string]version{}}, nil
}

// Run has told called with all pods that there are to be, now and after each change,
// until ctx is done. A file that cannot be read any more leaves its pod as it is; only
// one that is not there takes it away. It may be called once.
func (d *Directory) Run(ctx context.Context, told func([]*corev1.Pod)) error {
	wake := make(chan struct{}, 1)
	lost := make(chan struct{})
	const events = notify.Written | notify.MovedIn | notify.MovedOut | notify.Deleted
	w, err := notify.Directory(d.c.Dir, events, func(event uint32, _ string) bool {
		if event&notify.Gone != 0 {
			close(lost)
			return false
		}
		select {
		case wake <- struct{}{}:
		default:
		}
		return true
	}, func() {})
	if err != nil {
		told(d.read(ctx)) // these at least
		return fmt.Errorf("directory of static pods: %w", err)
	}
	defer w.Close()
	for {
		told(d.read(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-lost:
			d.c.Log.WarnContext(ctx, "the directory of static pods is gone: it is not followed any more", slog.String("directory", d.c.Dir))
			<-ctx.Done()
			return nil
		}
	}
}

// read answers with the pods of all files, in the order of the files' names.
func (d *Directory) read(ctx context.Context) []*corev1.Pod {
	entries, err := os.ReadDir(d.c.Dir)
	if err != nil { // as it was
		d.refuse(ctx, d.c.Dir, err)
		entries = nil
	}
	there, owner := map[string]bool{}, map[types.NamespacedName]string{}
	var out []*corev1.Pod
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || e.IsDir() {
			continue
		}
		there[name] = true
		p := d.file(ctx, name)
		if p == nil {
			continue
		}
		id := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		if first, taken := owner[id]; taken {
			d.refuse(ctx, name, fmt.Errorf("metadata.name: the pod %s is that of %s", id, first))
			continue
		}
		owner[id] = name
		out = append(out, p)
	}
	for name, v := range d.files {
		switch {
		case there[name]:
		case err != nil && v.pod != nil:
			out = append(out, v.pod)
		default:
			delete(d.files, name)
		}
	}
	return out
}

// file is the pod of a file: the last one that could be read of it; nil is none.
func (d *Directory) file(ctx context.Context, name string) *corev1.Pod {
	was := d.files[name]
	text, err := content(filepath.Join(d.c.Dir, name))
	if errors.Is(err, os.ErrNotExist) { // it goes while we look: the next look tells
		return was.pod
	}
	sum := sha256.Sum256(text)
	if err == nil && sum == was.sum {
		return was.pod
	}
	var p *corev1.Pod
	if err == nil {
		p, err = d.decode(ctx, text)
	}
	now := version{sum: sum, pod: p}
	if err != nil {
		now.pod = was.pod
		d.refuse(ctx, name, err)
	}
	d.files[name] = now
	return now.pod
}

func (d *Directory) refuse(ctx context.Context, file string, err error) {
	d.c.Log.WarnContext(ctx, "static pod refused", slog.String("file", file), slog.Any("error", err))
	if d.c.Refused != nil {
		d.c.Refused(file, err)
	}
}

// content is a file's, if that is no more than a manifest can be.
func content(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, errors.New("it is no file")
	}
	text, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err == nil && len(text) > largest {
		err = fmt.Errorf("it has more than %d bytes", largest)
	}
	return text, err
}

// decode makes the pod of a manifest as the node runs it and the API shows it. Its UID
// follows from the text and the node, so that the next agent knows it again.
func (d *Directory) decode(ctx context.Context, text []byte) (*corev1.Pod, error) {
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	if p.Name == "" {
		return nil, errors.New("metadata.name: required")
	}
	sum := sha256.Sum256(append([]byte(d.c.Node+"\n"), text...))
	uid, now := hex.EncodeToString(sum[:16]), time.Now()
	p.Name += "-" + d.c.Node
	p.GenerateName, p.ResourceVersion, p.OwnerReferences, p.Finalizers = "", "", nil, nil
	if p.Spec.NodeName != "" && p.Spec.NodeName != d.c.Node {
		return nil, fmt.Errorf("spec.nodeName: %q is not this node, which is %q", p.Spec.NodeName, d.c.Node)
	}
	p.Spec.NodeName = d.c.Node
	for k, v := range map[string]string{
		corev1.MirrorPodAnnotationKey: uid, annotationHash: uid, annotationSource: "file", annotationSeen: now.Format(time.RFC3339Nano),
	} {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, k, v)
	}
	// A taint that comes later does not end what the node has of its own.
	p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	made, err := rules.Create(rules.Facts{Now: now, UID: types.UID(uid)}, p, func(next api.Object) error {
		if d.c.Admit == nil {
			return nil
		}
		return d.c.Admit(ctx, next.(*corev1.Pod))
	})
	if err != nil {
		return nil, err
	}
	return made.(*corev1.Pod), nil
}

// parse reads one pod, in YAML or JSON. A field that pods do not have is a fault: it
// would be something that somebody believes to be done.
func parse(text []byte) (*corev1.Pod, error) {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var one []byte
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if empty(doc) {
			continue
		}
		if one != nil {
			return nil, errors.New("it holds several documents: each static pod has a file of its own")
		}
		one = doc
	}
	if one == nil {
		return nil, errors.New("it is empty")
	}
	var is metav1.TypeMeta
	if err := yaml.Unmarshal(one, &is); err != nil {
		return nil, err
	}
	if is.Kind != "Pod" || is.APIVersion != "v1" {
		return nil, fmt.Errorf("apiVersion %q, kind %q: it must be a Pod of v1", is.APIVersion, is.Kind)
	}
	text, err := yaml.YAMLToJSONStrict(one)
	if err != nil {
		return nil, err
	}
	p := &corev1.Pod{}
	faults, err := kjson.UnmarshalStrict(text, p)
	if err != nil {
		return nil, err
	}
	return p, errors.Join(faults...)
}

// empty tells a document of comments alone.
func empty(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		if l := bytes.TrimSpace(line); len(l) > 0 && l[0] != '#' && !bytes.Equal(l, []byte("---")) {
			return false
		}
	}
	return true
}

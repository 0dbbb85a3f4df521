package account

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
)

// mountPath is where pods find what they need to ask the API server.
const mountPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// volumeLife is how long a token there lives: some seconds more than an hour, by
// which it can be told from others.
const volumeLife = 3607

// Admit is next, after which a new pod has what comes with its service account: its
// image pull secrets, and a volume with a token. look finds an account. The account
// of pods that name none is in each namespace soon, so it need not be there yet.
func Admit(next rules.Admit, look func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)) rules.Admit {
	return func(ctx context.Context, op rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
		if err := next(ctx, op, r, old, obj, subresource); err != nil {
			return err
		}
		p, ok := obj.(*corev1.Pod)
		if !ok || old != nil || subresource != "" || rules.IsMirror(p) {
			return nil
		}
		name, says := p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken
		if p.Labels[api.LabelFunction] != "" && says != nil && !*says {
			return nil // a function's: it does not wait for a look
		}
		sa, err := look(ctx, p.Namespace, name)
		switch {
		case apierrors.IsNotFound(err) && name == api.DefaultAccount:
			sa = &corev1.ServiceAccount{}
		case apierrors.IsNotFound(err):
			return apierrors.NewForbidden(r.GR(), p.Name, fmt.Errorf("error looking up service account %s/%s: %w", p.Namespace, name, err))
		case err != nil:
			return err
		}
		if len(p.Spec.ImagePullSecrets) == 0 {
			p.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
		}
		if says == nil {
			says = sa.AutomountServiceAccountToken
		}
		if says == nil || *says {
			mount(&p.Spec)
		}
		return nil
	}
}

// mount gives the containers that have nothing there the volume.
func mount(s *corev1.PodSpec) {
	name := ""
	for i := range s.Volumes {
		if v := &s.Volumes[i]; v.Projected != nil && strings.HasPrefix(v.Name, volumePrefix) {
			name = v.Name
		}
	}
	made := name == ""
	if made {
		name = volumePrefix + rand.String(5)
	}
	used := false
	for _, cs := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range cs {
			if slices.ContainsFunc(cs[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == mountPath }) {
				continue
			}
			cs[i].VolumeMounts = append(slices.Clone(cs[i].VolumeMounts), corev1.VolumeMount{Name: name, MountPath: mountPath, ReadOnly: true})
			used = true
		}
	}
	if made && used {
		s.Volumes = append(slices.Clone(s.Volumes), volume(name))
	}
}

const volumePrefix = "kube-api-access-"

func volume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(volumeLife))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: api.RootCA},
				Items:                []corev1.KeyToPath{{Key: api.RootCAKey, Path: api.RootCAKey}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}

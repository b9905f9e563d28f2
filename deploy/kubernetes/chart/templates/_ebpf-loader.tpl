{{/* Loads programs, pins them and ends; the worker that starts next gets no right by that. */}}
{{- define "quickwater.ebpfLoader" -}}
- name: ebpf-loader
  image: {{ include "quickwater.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - ebpf
    - load
    {{- include "quickwater.ebpfArgs" . | nindent 4 }}
    {{- if .Values.ebpf.service }}
    - --ebpf-cgroup=/host/cgroup{{ .Values.ebpf.cgroup }}
    {{- end }}
  env:
    - name: POD_IP
      valueFrom:
        fieldRef:
          fieldPath: status.podIP
  resources:
    {{- include "quickwater.resources" (dict "cpu" "100m" "memory" "128Mi") | nindent 4 }}
  securityContext:
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    # Capabilities of a container are kept by root alone; the group is the worker's.
    runAsNonRoot: false
    runAsUser: 0
    runAsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
    capabilities:
      drop: ["ALL"]
      add: ["BPF", "PERFMON", "NET_ADMIN"]
  volumeMounts:
    - name: bpffs
      mountPath: /sys/fs/bpf/quickwater
    {{- if .Values.ebpf.service }}
    - name: cgroup
      mountPath: /host/cgroup
      readOnly: true
    {{- end }}
{{- end -}}

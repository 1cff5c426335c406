; Makes an installer of the folder that provision.windows.bat has filled. ISCC gets Source and Name.
; Silent: /VERYSILENT /SUPPRESSMSGBOXES; elsewhere: /DIR="D:\agent".
[Setup]
AppName=Cloudify Agent
AppVersion={#Name}
DefaultDirName={commonpf}\Cloudify Agents\{#Name}
DisableProgramGroupPage=yes
ArchitecturesAllowed=x64
ArchitecturesInstallIn64BitMode=x64
PrivilegesRequired=admin
Uninstallable=yes

[Files]
Source: "{#Source}\*"; DestDir: "{app}"; Flags: recursesubdirs createallsubdirs ignoreversion

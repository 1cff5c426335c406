@echo off
rem Builds the agent that packager.yaml describes, inside a clean Windows machine. The contract is in
rem README.md. Every step is believed by its result, never by its exit code alone.
setlocal EnableExtensions DisableDelayedExpansion

if not defined BUILD_INPUTS for %%d in ("%~dp0..") do set "BUILD_INPUTS=%%~fd"
if not defined BUILD_OUTPUT set "BUILD_OUTPUT=%BUILD_INPUTS%\dist\%COMPUTERNAME%"
if not defined SOURCE_DATE_EPOCH set "SOURCE_DATE_EPOCH=1704067200"
set "AGENT=C:\CloudifyAgent"
set "WORK=C:\CloudifyAgent.work"
set "TOOLS=%WORK%\tools"
set "WHEELHOUSE=%BUILD_INPUTS%\wheelhouse"
set "NAME="
rem As in prerequisites.sh.
set "PYYAML_VERSION=6.0.3"
set "PACKAGING_VERSION=25.0"
set "BROUGHT_VERSION=3.11.9"

echo ::phase prerequisites
if exist "%AGENT%\" rd /s /q "%AGENT%"
if exist "%AGENT%\" call :fail "%AGENT% could not be removed: is one of its programs running?" & exit /b 1
if exist "%WORK%\" rd /s /q "%WORK%"
md "%WORK%"
if not exist "%WORK%\" call :fail "%WORK% could not be made: is this script run as Administrator?" & exit /b 1
if not exist "%BUILD_OUTPUT%\" md "%BUILD_OUTPUT%"
if not exist "%BUILD_OUTPUT%\" call :fail "%BUILD_OUTPUT% could not be made" & exit /b 1
if not exist "%BUILD_INPUTS%\packager.yaml" call :fail "there is no packager.yaml in %BUILD_INPUTS%" & exit /b 1
set "PACKAGER=%BUILD_INPUTS%\provision\cfy-ap.pyz"
set "SOURCE=%BUILD_INPUTS%\build_orchestrator\agent"
if not exist "%PACKAGER%" if not exist "%SOURCE%\" call :fail "neither %PACKAGER% nor %SOURCE% is there" & exit /b 1

call :find_python
if not defined PYTHON exit /b 1
echo Python %PYTHON_VERSION% of %PYTHON%

rem The packager is one file where an orchestrator brought it, else its source in the project.
if exist "%PACKAGER%" goto :build
call :bring_readers
if not exist "%WORK%\readers" exit /b 1
set "PACKAGER=%BUILD_INPUTS%"

:build
rem The packager names the other phases, and leaves the zip's name in a file.
set "OPTIONS="
if exist "%WHEELHOUSE%\" set OPTIONS=, '--wheelhouse', r'%WHEELHOUSE%'
set RUN=import sys; sys.path[:0] = [r'%PACKAGER%', r'%TOOLS%']; from build_orchestrator.agent.windows import main
set ARGUMENTS='--config', r'%BUILD_INPUTS%\packager.yaml', '--output', r'%BUILD_OUTPUT%', '--folder', r'%AGENT%', '--made', r'%WORK%\made'
"%PYTHON%" -B -c "%RUN%; sys.exit(main([%ARGUMENTS%%OPTIONS%]))"
if errorlevel 1 call :fail "the agent could not be built" & exit /b 1
if not exist "%AGENT%\python.exe" call :fail "no interpreter was put into %AGENT%" & exit /b 1
if exist "%WORK%\made" set /p NAME=<"%WORK%\made"
if not defined NAME call :fail "the packager ended with 0 and named no agent" & exit /b 1
set "MADE=%BUILD_OUTPUT%\%NAME%.zip"
if not exist "%MADE%" call :fail "%MADE% is not there" & exit /b 1
for %%f in ("%MADE%") do set "SIZE=%%~zf"
if %SIZE% LSS 1000000 call :fail "%MADE% has %SIZE% bytes: that is no agent" & exit /b 1
echo made %MADE%: %SIZE% bytes

rem Inno Setup, where it is, makes an installer of the same folder.
set "ISCC="
for %%d in ("%ProgramFiles%" "%ProgramFiles(x86)%") do if exist "%%~d\Inno Setup 6\ISCC.exe" set "ISCC=%%~d\Inno Setup 6\ISCC.exe"
if not defined ISCC echo Inno Setup 6 is not here: no installer is made& goto :done
echo ::phase installer
"%ISCC%" /Q "/O%BUILD_OUTPUT%" "/F%NAME%" "/DSource=%AGENT%" "/DName=%NAME%" "%BUILD_INPUTS%\provision\windows-agent.iss"
if not exist "%BUILD_OUTPUT%\%NAME%.exe" call :fail "Inno Setup made no %NAME%.exe" & exit /b 1
echo made %BUILD_OUTPUT%\%NAME%.exe

:done
rd /s /q "%WORK%"
exit /b 0

rem --- subroutines -----------------------------------------------------------------------------------

:fail
echo error: provision: %~1 1>&2
exit /b 1

rem Brings what the one file has inside. Without a pip of its own, Python runs one out of the wheelhouse.
:bring_readers
set "LINKS="
if exist "%WHEELHOUSE%\" set LINKS=, '--find-links', r'%WHEELHOUSE%'
set INSTALL='pip', 'install', '--quiet', '--no-deps', '--only-binary', ':all:', '--target', r'%TOOLS%'
set INSTALL=%INSTALL%, 'pyyaml==%PYYAML_VERSION%', 'packaging==%PACKAGING_VERSION%'
"%PYTHON%" -c "import glob, runpy, sys; sys.path[:0] = sorted(glob.glob(r'%WHEELHOUSE%\pip-*.whl'))[-1:]; sys.argv = [%INSTALL%%LINKS%]; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
"%PYTHON%" -c "import sys; sys.path.insert(0, r'%TOOLS%'); import packaging, yaml; open(r'%WORK%\readers', 'w')"
if not exist "%WORK%\readers" call :fail "PyYAML and packaging could not be installed: has this Python a pip, or wheelhouse\ a wheel of it?"
exit /b 0

rem Sets PYTHON to a python.exe of 3.8 or later: PYTHON_HOME's, one that the image has, a fetched one, or one
rem that the machine's own package manager installs.
:find_python
set "PYTHON="
if defined PYTHON_HOME call :try_python "%PYTHON_HOME%\python.exe"
if defined PYTHON_HOME if not defined PYTHON call :fail "PYTHON_HOME=%PYTHON_HOME% holds no Python 3.8 or later" & exit /b 1
if defined PYTHON exit /b 0
call :look_for_python
if defined PYTHON exit /b 0
if defined PYTHON_ZIP_URL goto :fetch_python
call :install_with choco.exe install python311 --version %BROUGHT_VERSION% --yes --no-progress
call :install_with winget.exe install --id Python.Python.3.11 --exact --version %BROUGHT_VERSION% --scope machine --silent --disable-interactivity --accept-package-agreements --accept-source-agreements
if defined PYTHON exit /b 0
call :fail "no Python 3.8 or later is here, and no Chocolatey or winget brought one: bake one into the image, or give PYTHON_HOME or PYTHON_ZIP_URL"
exit /b 1

:look_for_python
for %%v in (313 312 311 310 39 38) do call :try_python "%ProgramFiles%\Python%%v\python.exe"
for %%v in (313 312 311 310 39 38) do call :try_python "C:\Python%%v\python.exe"
exit /b 0

:install_with
if defined PYTHON exit /b 0
for %%p in (%1) do if "%%~$PATH:p"=="" exit /b 0
echo no Python is here: %1 brings %BROUGHT_VERSION%
%*
call :look_for_python
exit /b 0

:try_python
if defined PYTHON exit /b 0
if not exist "%~1" exit /b 0
if exist "%WORK%\version" del "%WORK%\version"
"%~1" -c "import sys; sys.version_info >= (3, 8) and open(r'%WORK%\version', 'w').write('.'.join(map(str, sys.version_info[:3])) + chr(10))"
if not exist "%WORK%\version" exit /b 0
set /p PYTHON_VERSION=<"%WORK%\version"
set "PYTHON=%~1"
exit /b 0

rem The embeddable zip of python.org, a package for NuGet, or any other with python.exe at its top.
:fetch_python
set "ZIP=%WORK%\python.zip"
if not defined PYTHON_ZIP_SHA256 call :fail "PYTHON_ZIP_URL needs PYTHON_ZIP_SHA256 beside it" & exit /b 1
echo fetching %PYTHON_ZIP_URL%
set "BY=curl"
curl.exe --fail --silent --show-error --location --retry 3 --output "%ZIP%" "%PYTHON_ZIP_URL%" 2>nul
if not exist "%ZIP%" set "BY=PowerShell" & call :powershell "Invoke-WebRequest -UseBasicParsing -Uri $env:PYTHON_ZIP_URL -OutFile $env:ZIP"
if not exist "%ZIP%" call :fail "%BY% ended with %ERRORLEVEL%, and %ZIP% is not there" & exit /b 1
set "FOUND="
for /f "skip=1 delims=" %%h in ('certutil.exe -hashfile "%ZIP%" SHA256') do if not defined FOUND set "FOUND=%%h"
if /i not "%FOUND: =%"=="%PYTHON_ZIP_SHA256%" call :fail "%PYTHON_ZIP_URL% has the SHA-256 %FOUND%, not %PYTHON_ZIP_SHA256%" & exit /b 1
md "%WORK%\python"
set "BY=tar"
tar.exe -xf "%ZIP%" -C "%WORK%\python" 2>nul
if not exist "%WORK%\python\python.exe" if not exist "%WORK%\python\tools\python.exe" set "BY=PowerShell" & call :powershell "Expand-Archive -Force -Path $env:ZIP -DestinationPath $env:WORK\python"
if not exist "%WORK%\python\python.exe" if not exist "%WORK%\python\tools\python.exe" call :fail "%BY% ended with %ERRORLEVEL%, and %ZIP% was not unpacked" & exit /b 1
call :try_python "%WORK%\python\tools\python.exe"
call :try_python "%WORK%\python\python.exe"
if not defined PYTHON call :fail "what %PYTHON_ZIP_URL% holds is no Python 3.8 or later" & exit /b 1
exit /b 0

:powershell
powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -Command "$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'; %~1"
exit /b %ERRORLEVEL%
